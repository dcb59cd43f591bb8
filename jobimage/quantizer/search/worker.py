"""A worker of a search: it reads what is known, takes a point that nobody has, computes it, and writes how it ended.

All workers do the same, in pods or in one process on a laptop, and share only the store of trials. When no point is
left, whoever is first publishes the best one (see finish.py); the others find it at the output.
"""

import logging
import time
from collections.abc import Sequence

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import RunRequest
from quantizer.evaluation.walked import Walked
from quantizer.progress.tracker import PlannedStage
from quantizer.run.setting import Setting
from quantizer.run.workflow import Outcome
from quantizer.search.computing import Computing
from quantizer.search.finish import Finish
from quantizer.search.plan import Chosen, Plan, candidates_of
from quantizer.search.session import Session

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
MOST_CONFLICTS = 8
PUBLISH_SECONDS = 4.0


def search(request: RunRequest, setting: Setting) -> Outcome:
    """Tries the points of a search, together with other workers, and publishes the best.

    Raises:
        QuantizationError: QualityGoalMissed when no point meets all goals; what ends a run that is no point's own.
    """
    tracker = setting.tracker
    with tracker.stage("check"):
        session = Session.open(request, setting)
        finish = Finish(session)
        found = finish.published()
        if found is None:
            tracker.plan([PlannedStage("search", 1.0), PlannedStage("publish", 0.0, PUBLISH_SECONDS)])
    if found is None:
        with tracker.stage("search"), Walked(setting.scratch / "walked") as walked:
            chosen = _search(session, walked)
        with tracker.stage("publish"):
            found = finish.publish(chosen)
    tracker.finish()
    return finish.outcome(found)


def _search(session: Session, walked: Walked) -> list[Chosen]:
    """Computes until every point has ended, here or elsewhere; returns all of them."""
    plan, computing = Plan(session), Computing(session, walked)
    conflicts: dict[str, int] = {}
    while True:
        session.setting.stop_check()
        points = plan.points()
        _tell(session, plan, points)
        left = [point for point in points if not point.has_ended]
        pending = session.trials.pending([point.recipe for point in left])
        free = [point for point in left if point.recipe not in pending]
        if free:
            try:
                computing.compute(free[0], points)
            except QuantizationError as error:
                if error.category is not Category.ARTIFACT_CONFLICT:
                    raise
                count = conflicts[free[0].recipe] = conflicts.get(free[0].recipe, 0) + 1
                if count > MOST_CONFLICTS:
                    raise
                logger.info("another worker has %s", free[0].name)
        elif plan.choose():
            continue
        elif left:
            time.sleep(LOOK_SECONDS)
        else:
            return points


def _tell(session: Session, plan: Plan, points: Sequence[Chosen]) -> None:
    """Says how far the search is."""
    done = sum(point.has_ended for point in points)
    total = max(plan.most, len(points))
    session.setting.tracker.searched(done, total, session.best_in_words(candidates_of(points)))
    session.setting.tracker.advance(done, total)
