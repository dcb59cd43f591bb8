"""The contract's own checks of one part of a workflow, each fault a note at its place in the run config."""

from typing import TypeVar, cast

from pydantic import ValidationError

from quantization_api.faults import field, in_words
from quantization_api.rules import ContractModel
from quantization_api.sequence_refusals import SEQUENCE
from quantization_api.workflow import Workflow
from quantizer.cli.olive.notes import Notes, Object

Part = TypeVar("Part", bound=ContractModel)


def checked(
    model: type[Part], item: Object, path: str, notes: Notes, *, droppable: bool = True
) -> Part | None:
    """The part as the contract takes it; None when it lacks what it must have.

    What is wrong with a field is noted and the rest looked at without it, so that all faults are found at once.

    Args:
        item: fields of the model, and nothing else.
        path: where the part is in the run config, without a dot at the end.
        droppable: whether the default may stand in for a field whose value is wrong.
    """
    item = dict(item)
    while True:
        try:
            return model.model_validate(item)
        except ValidationError as error:
            faults = [(fault["loc"], in_words(dict(fault))) for fault in error.errors(include_url=False)]
        of_fields = [(location, said) for location, said in faults if location]
        if not of_fields:
            return _broken(model, item, path, [said for _, said in faults], notes)
        for location, said in of_fields:
            where = f"{path}.{field(location)}"
            notes.refuse(
                where, said, droppable=droppable and not model.model_fields[_top(location)].is_required()
            )
        found = {_top(location) for location, _ in of_fields}
        if not found & item.keys():
            return None
        item = {key: value for key, value in item.items() if key not in found}


def broken_by(workflow: Workflow) -> list[str]:
    """The sentences of every rule that a workflow breaks as a whole: references, and which passes follow which."""
    rules = [rule.check(workflow) for rule in Workflow.RULES if rule.check]
    sequence = [refusal.sentence for refusal in SEQUENCE if refusal.refused.holds(workflow)]
    return list(dict.fromkeys(said for said in [*rules, *sequence] if said))


def _top(location: tuple[int | str, ...]) -> str:
    return str(location[0])


def _broken(model: type[Part], item: Object, path: str, said: list[str], notes: Notes) -> Part:
    """A part whose fields are right and do not go together: the rules that it breaks, all of them."""
    part = cast(Part, model.model_construct(**item))
    broken = [sentence for rule in model.rules() if rule.check and (sentence := rule.check(part))]
    for sentence in broken or said:
        notes.refuse(path, sentence, droppable=False)
    return part
