"""The recipe digests of a search and of its points, from inputs that are opened once."""

from quantization_api.passes import ModelBuilder
from quantization_api.pod import RunRequest
from quantization_api.recipe import recipe_digest
from quantization_api.workflow import Workflow
from quantizer.passes.making import weight_pass
from quantizer.run.checks import (
    Opened,
    check_places,
    data_configs,
    data_revisions,
    open_once,
    open_tasks,
    read_texts,
)
from quantizer.run.inputs import Model, check_revision
from quantizer.run.setting import Setting


class Recipes:
    """Digests by workflow.

    Args:
        request: with the search.

    Raises:
        QuantizationError: what is wrong with the model or the texts, which is the same for all points.
    """

    def __init__(self, request: RunRequest, setting: Setting, opened: Opened) -> None:
        self._request, self._setting, self._opened = request, setting, opened
        self._known: dict[str, str] = {}
        check_places(request)
        revisions: dict[str, str] = {}
        for item in request.workflow.passes:
            if not isinstance(item, ModelBuilder):
                alone = request.workflow.model_copy(update={"passes": [item], "search_strategy": None})
                self.model, found = self._inputs(alone)
                revisions |= found
        check_revision(request.workflow.input_model, self.model)
        self.whole = recipe_digest(request.workflow, self.model.revision, data_revisions=revisions)

    model: Model

    def of(self, workflow: Workflow) -> str:
        """The recipe of a point."""
        key = workflow.model_dump_json()
        if key not in self._known:
            model, revisions = self._inputs(workflow)
            self._known[key] = recipe_digest(workflow, model.revision, data_revisions=revisions)
        return self._known[key]

    def _inputs(self, workflow: Workflow) -> tuple[Model, dict[str, str]]:
        """The model, and the revisions of the texts and tasks that a workflow uses."""
        chosen = weight_pass(*workflow.passes)
        request = self._request.model_copy(update={"workflow": workflow})
        model = open_once(request, self._setting, chosen.modules, self._opened)
        configs = data_configs(request, chosen, model)
        read_texts(request, self._setting, configs, model, self._opened)
        tasks = open_tasks(request, self._setting, model, self._opened)
        return model, data_revisions(self._opened, configs, tasks)
