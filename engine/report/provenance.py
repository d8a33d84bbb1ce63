"""Sections: data, exported file, where it comes from, history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from engine.lineage.render import differing
from engine.models.hub.origins import all_in_words
from engine.report import text as say
from engine.report.blocks import Block, Cell, amount, code, facts_list, table, text
from engine.report.facts import Facts, lineage_nodes, node_facts, number
from engine.report.gained import changes_table, data_text
from engine.report.pictures import Pictures
from engine.tracking.run_metadata import in_text
from engine.types import SPLITS

ENTRIES = 12  # of the history


def data(facts: Facts, pictures: Pictures) -> list[Block]:
    about = {**facts.data, **facts.dataset}
    if not about:
        return []
    blocks = facts_list(
        [
            ("Dataset", about.get("name")),
            ("Version", code(about.get("digest"))),
            ("Made from", code(about.get("source_digest"))),
            ("Licence", about.get("licence")),
            ("Format", about.get("format")),
            ("Splits", about.get("splits")),
        ]
    )
    counts = about.get("counts") or {}
    blocks += table(
        ("split", "images", "boxes"),
        [
            (
                Cell(split, "name"),
                amount(say.count(counts[split].get("images")), counts[split].get("images")),
                amount(say.count(counts[split].get("boxes")), counts[split].get("boxes")),
            )
            for split in SPLITS
            if split in counts
        ],
        style="narrow",
    )
    known = facts.changes or facts.data_changes
    more = Markup('{} See <a href="#gained">what this version gained and lost</a>.')
    said = data_text(facts)
    blocks.append(text(more.format(said) if facts.pair else said, "" if known else "soft"))
    blocks += changes_table(facts)
    blocks.append(text(leaks_text(facts), "warning" if _leaked(facts) else ""))
    blocks += table(
        ("found by the checks", "count", "policy"),
        [
            (
                Cell(kind.replace("_", " "), "name"),
                amount(say.count(each.get("count")), each.get("count")),
                Cell(str(each.get("policy", ""))),
            )
            for kind, each in (about.get("findings") or {}).items()
        ],
        "Findings in the data",
        "narrow",
    )
    blocks += table(
        ("class", *SPLITS),
        [
            (
                Cell(each.get("name", ""), "name"),
                *(amount(say.count(each.get(split)), each.get(split)) for split in SPLITS),
            )
            for each in about.get("classes") or ()
        ],
        "Boxes of each class",
        "narrow",
    )
    return blocks


def _leaked(facts: Facts) -> int:
    out = sum(len(each) for each in (facts.decision.get("left_out") or {}).values())
    return max(out, sum(facts.copies.values()))


def leaks_text(facts: Facts) -> str:
    left_out = {
        reason: len(each) for reason, each in (facts.decision.get("left_out") or {}).items()
    }
    listed = ", ".join(f"{found} ({reason})" for reason, found in left_out.items() if found)
    copies = ", ".join(f"{found} {kind}" for kind, found in facts.copies.items())
    if listed:
        return f"Test images that did not count: {listed}."
    if copies:
        return f"{facts.split} images with a copy in train: {copies}."
    if facts.decision.get("images"):
        return f"Leaks: no {facts.split} image was left out as a copy of a training image."
    return "Leaks: not recorded."


def exported(facts: Facts, pictures: Pictures) -> list[Block]:
    files = facts.exported.get("files") or {}
    blocks: list[Block] = []
    for name, each in files.items():
        latency = latency_text(each, facts)
        blocks += facts_list(
            [
                ("File", each.get("file")),
                ("Size", say.size(_bytes(facts, each))),
                ("SHA-256", code(each.get("sha256"))),
                ("Parity with PyTorch", parity_text(each)),
                ("Latency", latency),
            ],
            name.upper(),
        )
    return blocks


def parity_text(each: Mapping[str, Any]) -> str:
    """How far the exported file's output lies from PyTorch's, as it was measured."""
    parts = []
    if number(each.get("max_box_px")) is not None:
        parts.append(f"boxes differ by at most {say.small(each['max_box_px'])} px")
    if number(each.get("max_score")) is not None:
        parts.append(f"scores by at most {say.small(each['max_score'])}")
    if number(each.get("detections")) is not None:
        flips = number(each.get("flips")) or 0
        same = f"{say.count(flips)} of them on one side only" if flips else "the same on both sides"
        parts.append(f"{say.several(each['detections'], 'detection')}, {same}")
    if not parts:
        return "not recorded"
    about = f": {each['origin']}" if each.get("origin") else ""
    on = f" ({say.several(each['images'], 'image')}{about})" if each.get("images") else ""
    return ", ".join(parts) + on


def latency_text(each: Mapping[str, Any], facts: Facts) -> str:
    """Milliseconds an image, as the gate measured both models in turns, or stage register the
    file.
    """
    pair = facts.decision.get("latency_ms")
    if isinstance(pair, Mapping) and number(pair.get("a")) and number(pair.get("b")) is not None:
        return (
            f"{number(pair['b']):.1f} ms an image, the champion {number(pair['a']):.1f} ms, "
            "measured in turns on one machine"
        )
    found = facts.registration.get("latency")
    if not isinstance(found, Mapping) or found.get("sha256") != each.get("sha256"):
        return "not recorded"
    return (
        f"{number(found.get('median_ms')):.1f} ms an image (median of {say.count(found['runs'])}, "
        f"nine in ten below {number(found.get('p90_ms')):.1f} ms): the network alone, one image of "
        f"{found.get('input')} px at a time, on {found.get('machine')}"
    )


def _bytes(facts: Facts, each: Mapping[str, Any]) -> int | None:
    try:
        return (facts.root / str(each.get("file"))).stat().st_size
    except OSError:
        return None


def origin(facts: Facts, pictures: Pictures) -> list[Block]:
    """Where the model comes from, and who was champion when."""
    blocks = facts_list(origin_pairs(facts))
    settings = settings_of(facts)
    blocks += table(
        ("setting that is not the default", "value"),
        [(Cell(key, "name"), Cell(in_text(value))) for key, value in settings.items()],
        "Settings",
        "narrow",
    )
    return blocks


def origin_pairs(facts: Facts) -> list[tuple[str, Any]]:
    nodes = lineage_nodes(facts.lineage)
    run = next(iter(nodes.get("run", ())), {})
    about = node_facts(run)
    commit = str(about.get("commit") or about.get("code") or "")
    start = facts.trained.get("start") or {}
    started = ", ".join(f"{name} {say.digest(digest)}" for name, digest in start.items())
    return [
        ("Version", say.called(facts) if facts.version else ""),
        ("Weights", code(facts.registration.get("weights_sha256") or _weights(facts))),
        ("Network", facts.trained.get("model")),
        ("Published weights", all_in_words(facts.trained.get("origins") or ())),
        ("Started from", started or ("no weights" if facts.trained else "")),
        ("Training data", code(facts.trained.get("data_digest"))),
        ("Epochs", _epochs_text(facts)),
        ("Code", commit),
        ("MLflow run", code(facts.registration.get("run_id") or run.get("key"))),
        ("Trained", about.get("started")),
        ("By", about.get("user")),
        ("With", about.get("versions")),
    ]


def _epochs_text(facts: Facts) -> str:
    epochs, best = facts.trained.get("epochs"), facts.trained.get("best_epoch")
    if epochs is None:
        return ""
    return f"{epochs}" + (f", best: {best}" if best is not None else "")


def _weights(facts: Facts) -> str:
    return str(facts.validated.get("weights_sha256") or facts.trained.get("weights_sha256") or "")


def settings_of(facts: Facts) -> dict[str, Any]:
    """The settings of the training that are not the defaults, as its run recorded them."""
    nodes = lineage_nodes(facts.lineage)
    for kind in ("weights", "run"):
        for node in nodes.get(kind, ()):
            settings = node_facts(node).get("settings")
            if isinstance(settings, Mapping):
                return differing(settings)
    return {}


def history(facts: Facts, pictures: Pictures) -> list[Block]:
    rows = [
        (
            Cell(str(each.get("at", ""))[:16].replace("T", " "), "when name"),
            Cell(f"version {each['version']}" if each.get("version") else "nobody", "which"),
            Cell(str(each.get("what", "")), "strong"),
            Cell(str(each.get("by", ""))),
            Cell(str(each.get("why", "")), "words"),
        )
        for each in reversed(facts.history)
    ]
    return table(("when (UTC)", "which", "what", "by", "why"), rows[:ENTRIES], style="stack")
