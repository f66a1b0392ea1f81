"""Other systems under the evaluation protocol of our own models: they get the same records, and are scored alike.

open_system.py           what `seqgpt eval --model` names -> a system
system.py                what a system is; those that answer the questions of asking.py one by one
chat_server.py           openai:NAME, any OpenAI-compatible server; answer_store.py keeps its answers on disk
transformers_model.py    hf:PATH, any causal model of transformers
chat_prompt.py           how a chat model is asked
majority.py  tfidf.py  gazetteer.py    baselines; training_data.py: what the last two learn from
options.py               their options on the command line
"""
