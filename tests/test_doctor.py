"""The doctor finds what it claims to find: a twin that wrote over a release, versions out of bounds."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from seqgpt_jax.doctor import TWINS, check_requirements, check_step, check_twins


def make_distribution(folder: Path, recorded: bytes, on_disk: bytes) -> importlib.metadata.Distribution:
    """An installed package `victim` 1.0 whose RECORD has the hash of `recorded`."""
    import base64
    import hashlib

    info = folder / "victim-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: victim\nVersion: 1.0\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(recorded).digest()).rstrip(b"=").decode()
    (info / "RECORD").write_text(f"victim.py,sha256={digest},{len(recorded)}\nvictim-1.0.dist-info/RECORD,,\n")
    (folder / "victim.py").write_bytes(on_disk)
    return importlib.metadata.Distribution.at(info)


@pytest.mark.parametrize(("on_disk", "status"), [(b"x = 1\n", "ok"), (b"x = 'nightly'\n", "error")])
def test_twin_that_wrote_over_a_release(on_disk: bytes, status: str, tmp_path: Path) -> None:
    distribution = make_distribution(tmp_path, b"x = 1\n", on_disk)
    (finding,) = check_twins((("victim", "victim-nightly"),), find=lambda name: distribution)
    assert finding.status == status
    if status == "error":
        assert "victim.py" in finding.detail
        assert finding.remedy == "pip install --force-reinstall --no-deps victim==1.0"


def test_installed_twins_are_the_releases() -> None:
    """t5 asks for nightly builds of seqio and tensorflow-datasets: their files must not have won."""
    findings = list(check_twins())
    assert [finding.status for finding in findings] == ["ok"] * len(TWINS), findings


def test_requirement_that_is_missing_or_out_of_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy

    monkeypatch.setattr(
        importlib.metadata,
        "requires",
        lambda name: ["numpy<1", "no-such-package>=2", "numpy>=1", "torch; extra == 'x'"],
    )
    low, missing, fine = check_requirements("anything")
    assert (low.status, missing.status, fine.status) == ("error", "error", "ok")
    assert numpy.__version__ in low.detail
    assert missing.remedy == "pip install 'no-such-package>=2'"


def test_tiny_step_lowers_the_loss() -> None:
    (finding,) = check_step()
    assert finding.status == "ok", finding
