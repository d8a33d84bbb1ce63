"""Section: what the version gained and lost against the champion, by class and image, beside what
changed in the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from engine.report import text as say
from engine.report.blocks import Block, Cell, amount, figure, figures, table, text
from engine.report.facts import Facts, number
from engine.report.failures import several_alarms
from engine.report.pictures import Pictures

FIGURES = 4  # images of a kind
STRIP_PX = 960  # longer side of three images beside each other
LISTED = 8  # images in words, where there are no pictures


def gained(facts: Facts, pictures: Pictures) -> list[Block]:
    pair = facts.pair
    if not pair:
        return []
    rows = [each for each in pair.get("classes") or () if isinstance(each, Mapping)]
    total = {key: sum(number(each.get(key)) or 0 for each in rows) for key in COUNTS}
    alarms = {
        side: sum(number((each.get("false_alarms") or {}).get(side)) or 0 for each in rows)
        for side in "ab"
    }
    summed = {"class": "all classes", **total, "false_alarms": alarms}
    head = ("class", "boxes", "gained", "lost", *(f"found {when}" for when in WHEN))
    head += tuple(f"false alarms {when}" for when in WHEN)
    more = Markup('{} More under <a href="#data">Data</a>.')
    blocks = [
        text(summary_text(facts)),
        text(more.format(data_text(facts))),
        text(_measured_text(facts), "soft"),
    ]
    blocks += table(
        head,
        [_row(each, "total") for each in ([summed] if len(rows) > 1 else [])]
        + [_row(each) for each in rows],
        "Boxes to find, by class",
    )
    blocks += table(
        ("error", *(f"{what} {when}" for what in ("cost", "count") for when in WHEN)),
        [
            (
                Cell(str(each.get("type", "")), "name"),
                *(_of(each, side, "cost") for side in "ab"),
                *(_of(each, side, "count") for side in "ab"),
            )
            for each in pair.get("error_types") or ()
            if any(number((each.get(side) or {}).get(key)) for side in "ab" for key in COSTS)
        ],
        "Errors, with their cost in points of AP50",
        "narrow",
    )
    for key in ("gained", "lost"):
        title = f"Images that {key} most"
        blocks += _images(title, pair.get(key) or (), pair.get(f"images_{key}"), pictures)
    if number(pair.get("images_lost")) == 0:
        blocks.append(text("No image lost."))
    return blocks


COSTS = ("count", "cost")
WHEN = ("before", "now")
COUNTS = ("boxes", "both", "gained", "lost", "neither")


def summary_text(facts: Facts) -> str:
    """How many boxes and images were gained and lost; empty where nothing was compared."""
    pair = facts.pair
    if not pair:
        return ""
    rows = [each for each in pair.get("classes") or () if isinstance(each, Mapping)]
    won, lost = (int(sum(number(e.get(k)) or 0 for e in rows)) for k in ("gained", "lost"))
    better, worse = number(pair.get("images_gained")) or 0, number(pair.get("images_lost")) or 0
    said = (
        f"Of {say.several(pair.get('boxes'), 'box')} to find, {pair['b']} finds "
        f"{say.count(won)} that {pair['a']} missed, and misses {say.count(lost)} that {pair['a']} "
        f"found. Of {say.several(pair.get('images'), 'image')}, {say.count(better)} "
        f"{'is' if better == 1 else 'are'} better now and {say.count(worse)} worse."
    )
    moved = [each for each in rows if each.get("gained") != each.get("lost")]
    most = [f"{e['class']} ({_net(e)})" for e in reversed(moved) if _net(e).startswith("+")]
    least = [f"{e['class']} ({_net(e)})" for e in moved if _net(e).startswith("−")]
    for kind, names in (("Gained most", most), ("Lost most", least)):
        said += f" {kind}: {', '.join(names[:3])}." if names and len(rows) > 1 else ""
    return said


def _net(each: Mapping[str, Any]) -> str:
    net = int((number(each.get("gained")) or 0) - (number(each.get("lost")) or 0))
    return f"{net:+,}".replace("-", "−")


def _measured_text(facts: Facts) -> str:
    confidences = facts.pair.get("confidences") or {}
    at = " and ".join(f"{number(confidences.get(side)):.2f}" for side in "ab")
    return (
        f"Before is {facts.pair['a']}, now is {facts.pair['b']}: the measurements that decided, "
        f"each taken at the confidence where the mean F1 of the model is best ({at}). A box is "
        "found by a detection of its class from IoU .5 up. Costs are of all detections, counts of "
        "those from that confidence up."
    )


def _row(each: Mapping[str, Any], style: str = "") -> tuple:
    alarms = each.get("false_alarms") or {}
    both, won, lost = (number(each.get(key)) or 0 for key in ("both", "gained", "lost"))
    return (
        Cell(str(each.get("class", "")), f"name {style}"),
        amount(say.count(each.get("boxes")), each.get("boxes")),
        Cell(say.count(won), f"n strong {'good' if won else ''}", won),
        Cell(say.count(lost), f"n strong {'error' if lost else ''}", lost),
        amount(say.count(both + lost), both + lost),
        amount(say.count(both + won), both + won),
        amount(say.count(alarms.get("a")), alarms.get("a")),
        amount(say.count(alarms.get("b")), alarms.get("b")),
    )


def _of(each: Mapping[str, Any], side: str, key: str) -> Cell:
    value = (each.get(side) or {}).get(key)
    if key == "count":
        return amount(say.count(value), value)
    return amount(say.points(value, 2).lstrip("+"), value)


def _images(
    title: str, found: Sequence[Mapping[str, Any]], count: Any, pictures: Pictures
) -> list[Block]:
    """The first as figures, labels, before and now side by side; where no picture is to be had, in
    words. count: how many there are in all.
    """
    shown = []
    for each in found[:FIGURES]:
        name, said = say.short_name(each.get("image", "")), _change(each)
        picture = str(each.get("picture") or "")
        url = pictures.url(picture, STRIP_PX, of="compare") if picture else ""
        if url:
            alt = f"{name}: labels, before, now. {said}"
            shown.append(figure(url, alt, name, said, "strip"))
    texts = [f"{say.short_name(e.get('image', ''))}: {_change(e)}" for e in found[:LISTED]]
    listed = len(shown) or len(texts)
    if (number(count) or 0) > listed:
        title += f": {listed} of {say.count(count)}"
    if shown or not texts:
        return figures(shown, title, wide=True)
    return [text(title, "subtitle"), {"kind": "list", "texts": texts}]


def _change(each: Mapping[str, Any]) -> str:
    """`before 2 missed, 1 false alarm; now 0 missed, 0 false alarms`."""
    sides = [each.get(side) or {} for side in "ab"]
    before, now = (
        f"{say.count(side.get('missed'))} missed, {several_alarms(side.get('false_alarms'))}"
        for side in sides
    )
    return f"before {before}; now {now}"


def data_text(facts: Facts) -> str:
    """One sentence or two: what changed in the data meanwhile."""
    champion = (facts.decision.get("champion") or {}).get("name")
    if not champion:
        return "There was no champion to compare the data with."
    if facts.data_changes:
        parts = [said for each in facts.data_changes if (said := _split_text(each))]
        if not parts:
            return f"The data are those of {champion}: no image and no label has changed."
        said = f"In the data since {champion}, {'; '.join(parts)}."
        return f"{said} {back_text(facts)}".strip()
    if not facts.changes:
        return f"Changes in the data since {champion}: not recorded."
    found = facts.changes
    if not found["added"] and not found["removed"]:
        return f"The same {say.count(found['kept'])} training images as {champion}."
    return (
        f"Training images since {champion}: {say.count(found['added'])} added, "
        f"{say.count(found['removed'])} removed, {say.count(found['kept'])} kept."
    )


def _split_text(each: Mapping[str, Any]) -> str:
    """`train 30 images added, 2 relabelled`; empty where nothing has changed."""
    parts = [f"{say.count(each[key])} {words}" for key, words in CHANGES if each.get(key)]
    if not parts:
        return ""
    count, _, words = parts[0].partition(" ")
    parts[0] = f"{count} image{'' if count == '1' else 's'} {words}"
    return f"{each['split']}: {', '.join(parts)}"


CHANGES = (
    ("added", "added"),
    ("removed", "removed"),
    ("came", "from another split"),
    ("went", "to another split"),
    ("relabelled", "with other labels"),
)
HEADS = {"relabelled": "relabelled", "came": "came from another split", "went": "went to another"}


def back_text(facts: Facts) -> str:
    """What of it came back from `detectflow tasks`; empty where nothing is known of that."""
    found = facts.came_back
    parts = [
        f"{say.several(found.get(key), 'image')} {words}"
        for key, words in (("relabel", "with corrected labels"), ("label", "newly labelled"))
        if found.get(key)
    ]
    return f"Of these, tasks of `detectflow tasks`: {', '.join(parts)}." if parts else ""


def changes_table(facts: Facts) -> list[Block]:
    """Images and labels of each split, since the champion's version."""
    champion = (facts.decision.get("champion") or {}).get("name")
    used = [pair for pair in CHANGES if any(each.get(pair[0]) for each in facts.data_changes)]
    return table(
        ("split", "kept", *(HEADS.get(key, words) for key, words in used)),
        [
            (
                Cell(str(each["split"]), "name"),
                amount(say.count(each.get("kept")), each.get("kept")),
                *(amount(say.count(each.get(key)), each.get(key)) for key, _ in used),
            )
            for each in facts.data_changes
        ],
        f"Images since {champion}",
        "narrow",
    )
