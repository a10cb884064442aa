"""The words at the top of the page: what is adopted, how good and how sure, why, and what is still missing."""

from __future__ import annotations

from evaluators.decide.analysis import why_not
from evaluators.decide.render_pair import comparison_line
from orchestrator.core.study import Choice
from orchestrator.report.evidence import Evidence
from orchestrator.report.markup import Markup, element
from orchestrator.report.outlook import Purchase, another
from orchestrator.report.wording import dollars, duration, percent, points


def headline(evidence: Evidence) -> list[Markup]:
    """The choice in one sentence, and in one more how sure it is and what more would buy."""
    name = element("p", f"Study {evidence.study}", class_="study")
    choice = evidence.choice
    if choice is None:
        return [name, element("h1", "No epoch is adopted yet."), element("p", _best_so_far(evidence), class_="lead")]
    epoch = f"Epoch {choice.epoch}"
    if len({s.trial for s in evidence.series}) > 1:
        epoch += f" of {choice.trial}"
    if choice.n:
        passed, (low, high) = round(choice.first_try_rate * choice.n), choice.interval
        sentence = f"{epoch} is adopted: it gets {passed} of {choice.n} pictures right at the first try."
        interval = f"a 95\u00a0% interval from {percent(low)} to {percent(high)}"
        seeds = f"on {choice.n} fresh seeds that took no part in choosing the epoch"
        source = f"That is {percent(choice.first_try_rate)}, with {interval}, at weight {choice.weight:g}, {seeds}."
    else:
        sentence = f"{epoch} is adopted."
        source = f"Its rate on fresh seeds has not been measured yet. Use it at weight {choice.weight:g}."
    said = [part for part in (sure(evidence), buys(evidence)) if part]
    return [
        name,
        element("h1", sentence),
        element("p", source, class_="lead"),
        element("p", " ".join(said), class_="lead") if said else element("p"),
    ]


def sure(evidence: Evidence) -> str:
    """The probability that nothing better was missed."""
    found = evidence.sureness
    if found is None:
        return ""
    margin = points(evidence.outlook.margin)
    return (
        f"With a probability of {percent(found.chance)} no epoch that was drawn is more than {margin} better;"
        f" the best of all is expected to be {points(found.regret)} better."
    )


def buys(evidence: Evidence) -> str:
    """What one more dollar would buy; where no price is known, a hundred pictures more."""
    judged = sum(s.outcome in ("pass", "fail") for s in evidence.shots)
    more = another(evidence.cost, evidence.choice, evidence.sureness, judged)
    if more is None:
        return ""
    paid = evidence.cost.dollars_per_hour is not None
    begin = "One more dollar" if paid else "A hundred more pictures"
    what = (
        f"draws {more.pictures:,} more pictures ({duration(more.seconds)})"
        if paid
        else f"take {duration(more.seconds)}"
    )
    return f"{begin} {what} and {_narrows(more, plural=not paid)}."


def _narrows(more: Purchase, *, plural: bool) -> str:
    verb = "narrow" if plural else "narrows"
    said = f"{verb} the rate from ±{points(more.half_now)} to about ±{points(more.half_then)}"
    if more.regret_now >= 0.002:
        said += f", or what may be missed from {points(more.regret_now)} to about {points(more.regret_then)}"
    return said


def _best_so_far(evidence: Evidence) -> str:
    if not evidence.lead:
        return "No picture has been judged so far."
    best = max(evidence.lead.rates, key=lambda r: (r.rate, r.scored, r.epoch))
    return f"So far epoch {best.epoch} is ahead with {best.passes} of {best.scored} pictures passed. This may change."


def progress(evidence: Evidence) -> Markup | None:
    """What is still missing, and what was said about ending training; nothing for a study that just is complete."""
    drawn = [*evidence.shots, *evidence.confirming]
    waiting = sum(s.verdict is None for s in drawn)
    lines = [f"Training of {name} failed: {error}" for name, error in evidence.failed_trials]
    for advice, ended in evidence.stops:
        did = f"Training of {advice.trial} was stopped at epoch {advice.epoch}, which saved {advice.saving()}"
        could = f"Stopping {advice.trial} at epoch {advice.epoch} would have saved {advice.saving()}"
        lines.append(f"{did if ended else could}: {advice.reason}.")
    if evidence.choice is None:
        epochs = f"{len(evidence.checkpoints)} epochs saved of {evidence.epochs_asked} asked for"
        lines.append(f"This study is not finished: {epochs}, {len(drawn)} pictures drawn.")
    if waiting:
        lines.append(f"{waiting} of {len(drawn)} pictures have not been judged.")
    return element("div", *(element("p", line) for line in lines), class_="notice") if lines else None


def why(evidence: Evidence) -> list[Markup]:
    """Why this epoch, and why not the runner-up."""
    choice = evidence.choice
    if choice is None:
        return []
    seen = choice.selection
    note = (
        f"While choosing it passed {seen.passes} of {seen.scored} ({percent(seen.rate)}). Do not expect that figure: "
        "the best of several epochs is partly the luckiest, so the rate it was chosen by is optimistic."
    )
    parts = [element("h2", "Why this epoch"), element("p", choice.reason), element("p", note)]
    parts += _curve_says(evidence, choice)
    if other := choice.runner_up:
        where = f"epoch {other.epoch}"
        where += f" at weight {other.weight:g}" if other.weight != choice.weight else ""
        where += f" of {other.trial}" if other.trial != choice.trial else ""
        rate = f"{percent(other.rate)}, interval {percent(other.low)} to {percent(other.high)}"
        said = f"The runner-up is {where} with {other.passes} of {other.scored} ({rate})."
        if other.high >= seen.low and seen.high >= other.low:
            said += " The intervals overlap: with this many pictures the two cannot be told apart for sure."
        parts.append(element("p", said))
    return parts


def _curve_says(evidence: Evidence, choice: Choice) -> list[Markup]:
    """What the smoothed curve says of the choice, and of its own where that is another."""
    found = evidence.outlook.trials.get(choice.trial)
    own = evidence.sureness
    if found is None or found.decision is None or own is None:
        return []
    chosen = found.decision.chosen
    said = f"The smoothed curve puts its rate at {percent(own.rate)} ({percent(own.low)} to {percent(own.high)})."
    same = (chosen.epoch, chosen.weight) == (choice.epoch, choice.weight)
    if not same:
        at = f" at weight {chosen.weight:g}" if chosen.weight != choice.weight else ""
        said += f" By expected loss alone the curve would take epoch {chosen.epoch}{at}, {percent(chosen.rate)}."
    elif found.decision.runner_up is not None:
        said += f" {why_not(chosen.weight, found.decision)}"
    lines = [said]
    if same and found.against_runner_up is not None and found.decision.runner_up is not None:
        rival = found.decision.runner_up
        at = f" at weight {rival.weight:g}" if rival.weight != chosen.weight else ""
        lines.append(
            _sentence(comparison_line(f"epoch {chosen.epoch}", f"epoch {rival.epoch}{at}", found.against_runner_up))
        )
    if same and found.against_control is not None:
        lines.append(_sentence(comparison_line(f"epoch {chosen.epoch}", "no adapter at all", found.against_control)))
    return [element("p", line) for line in lines]


def _sentence(line: str) -> str:
    return line[0].upper() + line[1:]


def cost_words(evidence: Evidence) -> list[tuple[str, str]]:
    """Cost so far, as rows of a table."""
    cost = evidence.cost
    rows = []
    if cost.dollars is not None and cost.wall_s:
        rows.append(("cost so far", f"{dollars(cost.dollars)} at {dollars(cost.dollars_per_hour or 0)} an hour"))
    rows += [("saved by stopping", advice.saving()) for advice, ended in evidence.stops if ended]
    return rows
