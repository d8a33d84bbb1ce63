"""The files of a model on Hugging Face's hub, brought by the hub's own client:
`python -m engine.models.hub.download ask|bring ORG/NAME FOLDER REVISION`. `ask` only says which
revision that is and its licence; `bring` goes on in FOLDER where it was cut off.

A process of its own: the client reads its settings when it is imported, and every other process of
this project works offline. Proxies (`HTTPS_PROXY`), a mirror (`HF_ENDPOINT`) and a token
(`HF_TOKEN`) are the client's own settings. Prints one object of JSON: `{"repo", "revision",
"licence"}`, with `files` where they were brought, or `{"error", "said"}`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from engine.models.hub.licences import licence_of_card

WANTED = re.compile(r"(config|preprocessor_config|model.*\.index)\.json|model[^/]*\.safetensors")
INDEX = "*.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
LARGEST_BYTES = 8_000_000_000
SECRETS = re.compile(r"(?i)hf_\w{8,}|bearer\s+[^\s'\"]+|(?<=//)[^/@\s]+@")


class Refused(Exception):
    """What is there is not what is wanted; the text says why."""


def ask(repo: str, revision: str | None) -> tuple[dict[str, Any], Any]:
    """What is known of `revision` (None: the newest) before a file is brought, and what the client
    says of it.
    """
    from huggingface_hub import HfApi

    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=30)
    if revision is not None and info.sha != revision:
        raise Refused(f"asked for revision {revision[:12]}, the hub answers with {info.sha}")
    card = info.card_data.to_dict() if info.card_data is not None else {}
    return {"repo": info.id, "revision": info.sha, "licence": licence_of_card(card)}, info


def bring(repo: str, folder: Path, revision: str | None) -> dict[str, Any]:
    """The files of `revision` in `folder`."""
    from huggingface_hub import snapshot_download

    found, info = ask(repo, revision)
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
    for index in folder.glob(INDEX):
        try:
            others = shards_of(index) - files
        except ValueError as error:
            raise Refused(f"{index.name}: {error}") from None
        if others:
            raise Refused(f"{index.name} names {min(others)}, which is no file of the weights")
    return {**found, "files": digests}


def shards_of(index: Path) -> set[str]:
    """The files that hold the weights, by the list of a model in several. ValueError: it is
    damaged, or names files outside its folder.
    """
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError("damaged: no weight_map") from None
    for name in found:
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise ValueError(f"names {name!r}, which is no .safetensors file beside it")
    return set(found)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main(words: list[str]) -> int:
    """Errors are data: whoever called puts them into words."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    verb, repo, folder, revision = words
    try:
        if verb == "ask":
            found = ask(repo, revision or None)[0]
        else:
            found = bring(repo, Path(folder), revision or None)
    except Refused as error:
        found = {"error": "Refused", "said": str(error)}
    except Exception as error:  # the client raises its own, httpx's and the system's
        said = str(error).strip().splitlines() or [""]
        found = {"error": type(error).__name__, "said": _without_secrets(said[0])}
    print(json.dumps(found))
    return 0 if "error" not in found else 1


def _without_secrets(said: str) -> str:
    """Libraries put headers and addresses into their errors."""
    tokens = [os.environ.get("HF_TOKEN", "").strip()]
    with contextlib.suppress(Exception):  # what the client raises for settings it cannot read
        from huggingface_hub import get_token

        tokens.append(get_token() or "")
    for token in filter(None, tokens):
        for shown in (token, repr(token)[1:-1]):
            said = said.replace(shown, "***")
    return SECRETS.sub("***", said)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
