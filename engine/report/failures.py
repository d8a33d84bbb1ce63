"""Section: where the model fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup, escape

from engine.report import text as say
from engine.report.blocks import Block, Cell, amount, figure, figures, table, text
from engine.report.charts import bar_mark, interval_mark, scale_of
from engine.report.facts import Facts, number
from engine.report.measured import AP50
from engine.report.pictures import Pictures

FIGURES = 12  # images of a kind
PICTURE_PX, BATCH_PX = 440, 1000  # longer side of an image
ERROR_TYPES = {
    "classification": "found in the right place, called the wrong class",
    "localisation": "right class, box too far off",
    "both": "wrong class and box too far off",
    "duplicate": "a second box for an object that was found",
    "background": "a box where there is nothing to find",
    "missed": "an object that no box stands for",
}


def errors(facts: Facts, pictures: Pictures) -> list[Block]:
    found = facts.errors
    if not found:
        return _hard_images(facts, pictures)
    types = [each for each in found.get("error_types") or ()]
    most = max((number(each.get("cost")) or 0.0 for each in types), default=0.0)
    blocks: list[Block] = []
    if types:
        on = f"{found.get('split', facts.split)} image"
        said = f"On {say.several(found.get('images'), on)}"
        blocks.append(
            text(
                f"{said}, AP50 {say.metric(found.get('ap50'))}. The cost of a type: how many "
                "points AP50 would gain if only these errors were mended."
            )
        )
    blocks += table(
        ("error", "cost, points", "", "count"),
        [
            (
                Cell(_explained(str(each.get("type", ""))), "name words"),
                amount(say.points(each.get("cost"), 2).lstrip("+"), each.get("cost")),
                Cell(bar_mark(number(each.get("cost")), most), "markcell"),
                amount(say.count(each.get("count")), each.get("count")),
            )
            for each in sorted(types, key=lambda each: -(number(each.get("cost")) or 0.0))
        ],
        "Types of error",
    )
    blocks += _slices(found)
    blocks += table(
        ("size", "AP50", "0 to 1", "boxes"),
        [
            (
                Cell(each.get("slice", ""), "name"),
                amount(say.metric(each.get("ap50")), each.get("ap50")),
                Cell(bar_mark(number(each.get("ap50")), 1.0), "markcell"),
                amount(say.count(each.get("boxes")), each.get("boxes")),
            )
            for each in found.get("by_size") or ()
        ],
        "By size of the object",
        "narrow",
    )
    blocks += _figures("Hardest images", map(_hard, found.get("hardest") or ()), pictures)
    blocks += _figures(
        "Probable label errors", map(_doubtful, found.get("label_errors") or ()), pictures
    )
    return blocks


def _explained(kind: str) -> Markup:
    about = ERROR_TYPES.get(kind, "")
    more = f'<br><span class="soft about">{about}</span>' if about else ""
    return Markup(f"{escape(kind)}{more}")


def _slices(found: Mapping[str, Any]) -> list[Block]:
    rows = [each for each in found.get("slices") or ()]
    rows.sort(key=lambda each: (not each.get("worse"), number(each.get("difference")) or 0.0))
    scale = scale_of(
        [tuple(number(each.get(key)) for key in ("difference", "low", "high")) for each in rows],
        0.0,
    )
    worse = [each for each in rows if each.get("worse")]
    named = ", ".join(f"{each.get('column')} {each.get('slice')}" for each in worse)
    if not rows:
        return []
    said = (
        f"Significantly worse than the other images: {named}."
        if worse
        else "No slice is significantly worse than the other images."
    )
    head = (
        *("slice", "difference", "95 % interval", "worse | better"),
        *("p", "AP50", "of the rest", "images", "boxes"),
    )
    return [
        text(f"{said} The p is corrected for the number of slices.", "warning" if worse else ""),
        *table(
            head,
            [
                (
                    Cell(f"{each.get('column')}: {each.get('slice')}", "name"),
                    Cell(
                        say.points(each.get("difference")),
                        f"n strong {'error' if each.get('worse') else ''}",
                        number(each.get("difference")),
                    ),
                    Cell(say.points_interval(each.get("low"), each.get("high")), "n"),
                    Cell(
                        interval_mark(
                            *(number(each.get(k)) for k in ("difference", "low", "high")),
                            scale,
                            zero=0.0,
                        ),
                        "markcell",
                    ),
                    amount(say.metric(each.get("p")), each.get("p")),
                    amount(say.metric(each.get("ap50")), each.get("ap50")),
                    amount(say.metric(each.get("rest")), each.get("rest")),
                    amount(say.count(each.get("images")), each.get("images")),
                    amount(say.count(each.get("boxes")), each.get("boxes")),
                )
                for each in rows
            ],
            "Slices of the images",
        ),
    ]


def _hard(each: Mapping[str, Any]) -> tuple[str, str, str]:
    missed = f"{say.count(each.get('missed'))} missed"
    false = several_alarms(each.get("false_alarms"))
    return (
        str(each.get("picture") or ""),
        say.short_name(each.get("image", "")),
        f"{missed}, {false}",
    )


def several_alarms(value: Any) -> str:
    return say.several(value, "false alarm")


def _doubtful(each: Mapping[str, Any]) -> tuple[str, str, str]:
    kind, name = str(each.get("kind") or "label"), str(each.get("class") or "")
    score = number(each.get("score"))
    said = f"{kind}: {name}" if name else kind
    said += f", score {score:.2f}" if score is not None else ""
    return str(each.get("picture") or ""), say.short_name(each.get("image", "")), said


def _figures(title: str, found: Iterable[tuple[str, str, str]], pictures: Pictures) -> list[Block]:
    """Those that have an image as figures, the first of the others as a list."""
    shown, others = [], []
    for picture, name, said in list(found)[: 2 * FIGURES]:
        url = pictures.url(picture, PICTURE_PX) if picture and len(shown) < FIGURES else ""
        if url:
            shown.append(figure(url, f"{name}: {said}", name, said))
        else:
            others.append(f"{name}: {said}")
    blocks = figures(shown, title)
    if others and not shown:
        blocks.append(text(title, "subtitle"))
    return [*blocks, *([{"kind": "list", "texts": others}] if others else [])]


def _hard_images(facts: Facts, pictures: Pictures) -> list[Block]:
    """Without an analysis of errors: the images with the most mistakes, and a batch as it was
    found.
    """
    wrong = sorted(
        (row for row in facts.per_image if (_mistakes(row) or 0) > 0),
        key=lambda row: (-(_mistakes(row) or 0), row.get("name") or ""),
    )
    blocks = table(
        ("image", "missed", "false alarms", "boxes", AP50),
        [
            (
                Cell(say.short_name(row.get("name", "")), "name"),
                amount(say.count(row.get("fn")), row.get("fn")),
                amount(say.count(row.get("fp")), row.get("fp")),
                amount(say.count(row.get("n_gt")), row.get("n_gt")),
                amount(say.metric(row.get("ap50")), row.get("ap50")),
            )
            for row in wrong[:FIGURES]
        ],
        "Images with the most mistakes",
    )
    if wrong:
        blocks.insert(
            0,
            text(
                f"{say.count(len(wrong))} of {say.count(len(facts.per_image))} {facts.split} "
                "images have a missed object or a false alarm at the confidence of the best F1."
            ),
        )
    batch = [
        figure(url, f"{title} of a batch of images", title)
        for name, title in (
            ("val_batch0_labels.jpg", "Labelled boxes"),
            ("val_batch0_pred.jpg", "Boxes that were found"),
        )
        if (url := pictures.url(name, BATCH_PX))
    ]
    return [*blocks, *figures(batch, "A batch", wide=True)]


def _mistakes(row: Mapping[str, str]) -> float:
    return (number(row.get("fn")) or 0.0) + (number(row.get("fp")) or 0.0)
