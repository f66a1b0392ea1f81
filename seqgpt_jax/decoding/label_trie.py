"""A trie of token sequences that grows behind one prompt, with what the model thinks of each of its nodes.

    add("card\\n"), add("card fee\\n")          root - card +- \\n
                                                            +- fee - \\n

A node stands for the tokens on the way to it. The model evaluates a node, which gives the log-probability of each of
its children; so a leaf is never evaluated. Every sequence keeps the tokens that the tokenizer gives its whole text:
where a token reaches over the end of a label, the paths part before it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

ROOT = 0  # the last token of the prompt


class LabelTrie:
    """Nodes are numbers; a parent's is smaller than those of its children. Each list is indexed by node.

    log_probs: of all tokens on the way to the node, NaN where not known. depths: how many these are.
    slots: where the node lies in the cache, counted from the end of the prompt; None before it is evaluated.
    """

    def __init__(self, root_token: int) -> None:
        self.tokens = [root_token]
        self.parents = [-1]
        self.depths = [0]
        self.children: list[dict[int, int]] = [{}]  # token -> node
        self.log_probs = [0.0]
        self.slots: list[int | None] = [None]

    def add(self, tokens: Sequence[int]) -> int:
        """The node of this sequence, with all that it takes to reach it."""
        node = ROOT
        for token in tokens:
            if token not in self.children[node]:
                self.children[node][token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(node)
                self.depths.append(self.depths[node] + 1)
                self.children.append({})
                self.log_probs.append(math.nan)
                self.slots.append(None)
            node = self.children[node][token]
        return node

    def path_slots(self, node: int) -> list[int]:
        """The slots of the node and of those above it, as far as they have one; the prompt's last token has none."""
        slots = []
        while node != ROOT:
            if (slot := self.slots[node]) is not None:
                slots.append(slot)
            node = self.parents[node]
        return slots

    def unknown(self) -> list[int]:
        """Every node with a child of unknown log-probability, parents first.

        A node that was evaluated is among them where it has got another child since.
        """
        return [node for node in range(len(self.tokens)) if self._asks(node)]

    def frontier(self) -> list[int]:
        """Those nodes of `unknown` whose own log-probability is known: what lies below one has no more than that."""
        return [node for node in self.unknown() if not math.isnan(self.log_probs[node])]

    def most_promising(self, width: int, floor: float) -> list[int]:
        """Up to `width` nodes of `unknown`, parents first, below which a log-probability above `floor` may lie.

        The best come first by what is known of the nodes above them, and the guess that the children of a node are
        equally probable; so a chain without branches comes as a whole.
        """
        queue = [(-self.log_probs[node], node) for node in self.frontier() if self.log_probs[node] > floor]
        heapq.heapify(queue)
        chosen: list[int] = []
        while queue and len(chosen) < width:
            cost, node = heapq.heappop(queue)
            chosen.append(node)
            for child in self.children[node].values():
                if self._asks(child):
                    heapq.heappush(queue, (cost + math.log(len(self.children[node])), child))
        return chosen

    def learn(self, node: int, child_log_probs: Sequence[float]) -> None:
        """Takes in the log-probability of each child, given the node, in the order of `children[node]`."""
        for child, log_prob in zip(self.children[node].values(), child_log_probs, strict=True):
            self.log_probs[child] = self.log_probs[node] + log_prob

    def _asks(self, node: int) -> bool:
        return any(math.isnan(self.log_probs[child]) for child in self.children[node].values())
