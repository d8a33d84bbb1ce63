"""The files of a model on Hugging Face's hub, brought by the hub's own client:
`python -m engine.models.hub.download ORG/NAME FOLDER REVISION [THERE ...]`. Goes on in FOLDER where
it was cut off; of a revision that is THERE only its name is asked.

A process of its own: the client reads its settings when it is imported, and every other process of
this project works offline. Proxies (`HTTPS_PROXY`), a mirror (`HF_ENDPOINT`) and a token
(`HF_TOKEN`) are the client's own settings. Prints one object of JSON: `{"repo", "revision",
"licence", "files"}`, or `{"error", "said"}`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

WANTED = re.compile(r"(config|preprocessor_config|model.*\.index)\.json|model[^/]*\.safetensors")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
LARGEST_BYTES = 8_000_000_000


class Refused(Exception):
    """What is there is not what is wanted; the text says why."""


def download(repo: str, folder: Path, revision: str | None, there: list[str]) -> dict[str, Any]:
    """The files of `revision` (None: the newest) in `folder`; of one of `there` its name alone."""
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=30)
    if info.sha in there:
        return {"repo": info.id, "revision": info.sha}
    listed = {each.rfilename: each for each in info.siblings or ()}
    files = {name for name in listed if WANTED.fullmatch(name)}
    if "config.json" not in files:
        raise Refused("it has no config.json, so it is no model of the library transformers")
    if not any(name.endswith(".safetensors") for name in files):
        pickled = sorted(name for name in listed if name.endswith(PICKLED))
        also = "; {} can run code when opened and is not read".format(", ".join(pickled[:3]))
        raise Refused(f"it has no weights as .safetensors{also if pickled else ''}")
    size = sum(listed[name].size or 0 for name in files)
    if size > LARGEST_BYTES:
        most = LARGEST_BYTES / 1e9
        raise Refused(f"its files are {size / 1e9:.1f} GB; at most {most:.0f} are taken")
    snapshot_download(repo, revision=info.sha, local_dir=folder, allow_patterns=sorted(files))
    digests = {}
    for name in sorted(files):
        digests[name] = _sha256(folder / name)
        told = getattr(listed[name].lfs, "sha256", None)
        if told and told != digests[name]:
            (folder / name).unlink()
            raise Refused(
                f"{name} came with SHA-256 {digests[name][:12]}, and the hub says {told[:12]}: it "
                "was removed; try again"
            )
    card = info.card_data.to_dict() if info.card_data is not None else {}
    licence = card.get("license_name") if card.get("license") == "other" else card.get("license")
    return {"repo": info.id, "revision": info.sha, "licence": licence or "", "files": digests}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main(words: list[str]) -> int:
    """Errors are data: whoever called puts them into words."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    repo, folder, revision, *there = words
    try:
        found = download(repo, Path(folder), revision or None, there)
    except Refused as error:
        found = {"error": "Refused", "said": str(error)}
    except Exception as error:  # the client raises its own, httpx's and the system's
        said = str(error).strip().splitlines() or [""]
        found = {"error": type(error).__name__, "said": said[0]}
    print(json.dumps(found))
    return 0 if "error" not in found else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
