"""Serves /plan: previews, the applied and the waiting plan, and convergence."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request, Response

from partitiond.api.given import Convergences, FitCheck, Options, PlanControl
from partitiond.api.plan_schemas import PlanBody
from partitiond.api.plan_stream import OPENAPI, plan_events
from partitiond.api.replies import Route, problems, reply
from partitiond.api.schemas import ApplyBody
from partitiond.api.streams import MEDIA_TYPE, EventStream, changes, wants_stream
from partitiond.core.errors import NotFoundError
from partitiond.core.plan.record import Plan
from partitiond.core.replica.convergence import Convergence
from partitiond.core.views.preview import PlanPreview

router = APIRouter(prefix="/plan", tags=["plan"], route_class=Route)

CONVERGENCE_DOCUMENTED: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Events `state` and `progress`, each with the whole convergence in `data`. "
        "The first one is the convergence as it is; the stream ends after the state in which it is "
        "`converging` no more, or when the daemon ends.",
        "content": {
            MEDIA_TYPE: {
                "schema": {"type": "string"},
                "example": 'event: state\ndata: {"plan_id": "plan-12", "state": "converging", '
                '"serving": 7, "wanted": 11, ...}\n\n',
            }
        },
    }
}


@router.get(
    "",
    operation_id="getPlan",
    summary="Show the applied plan",
    response_model=Plan,
    responses=problems(404),
)
async def get_plan(plans: PlanControl) -> Response:
    """The plan that is applied, with its certificate and explanation."""
    plan = plans.applied()
    if plan is None:
        raise NotFoundError(
            "no plan is applied yet.", hint="POST /plan shows one, POST /plan/apply applies it."
        )
    return reply(plan)


@router.get(
    "/waiting",
    operation_id="getWaitingPlan",
    summary="Show the plan that waits",
    response_model=PlanPreview,
    responses=problems(404),
)
async def get_waiting_plan(plans: PlanControl) -> Response:
    """The plan that the daemon made by itself and that waits for `apply`, with what it changes.

    It would move or stop what runs. It is withdrawn once what it was made from has changed.
    """
    waiting = plans.waiting()
    if waiting is None:
        raise NotFoundError("no plan waits.", hint="POST /plan makes one of what is now.")
    return reply(waiting)


@router.post(
    "",
    operation_id="previewPlan",
    summary="Make a plan (dry run)",
    response_model=PlanPreview,
    responses={**OPENAPI, **problems(503)},
)
async def preview_plan(
    *,
    plans: PlanControl,
    fit: FitCheck,
    options: Options,
    request: Request,
    body: PlanBody | None = None,
    accept: Annotated[
        str, Header(description="text/event-stream: progress as it happens, then the plan.")
    ] = "",
) -> Response:
    """Plan for what is registered, and what applying it would change. Nothing is changed.

    `infeasible` says why there is no plan and what would make it fit; `answers` holds what else
    was asked: alternatives beside the plan, why a model is where it is, and what would make
    everything fit. Each further plan takes up to half of the time limit.
    Plans that are asked for are made one after the other; 503 where too many wait already.
    """
    asked = body or PlanBody()
    question = asked.to_question()
    if asked.models:
        specs = [model.to_spec(options) for model in asked.models]
        return reply(await fit.plan_with(specs, allow_outage=question.allow_outage))
    if wants_stream(accept):
        made = plan_events(lambda take: plans.preview(question, take), request.url.path)
        return EventStream(made)
    return reply(await plans.preview(question))


@router.post(
    "/apply",
    operation_id="applyPlan",
    summary="Apply a plan",
    response_model=PlanPreview,
    responses=problems(404, 409),
)
async def apply_plan(plans: PlanControl, body: ApplyBody | None = None) -> Response:
    """Apply a previewed plan by its id, or a fresh one.

    A preview that is outdated (models, profiles or devices changed since) is a conflict. The
    answer comes when the plan is the desired one; GET /plan/convergence says how far the host is.
    """
    asked = body or ApplyBody()
    return reply(await plans.apply(asked.plan_id, allow_outage=asked.allow_outage))


@router.get(
    "/convergence",
    operation_id="getConvergence",
    summary="Show how far a plan is",
    response_model=Convergence,
    responses={**CONVERGENCE_DOCUMENTED, **problems(404)},
)
async def get_convergence(
    progress: Convergences,
    plan_id: Annotated[
        str | None,
        Query(description="Of a plan that was applied; default the applied one, whichever it is."),
    ] = None,
    accept: Annotated[
        str, Header(description="text/event-stream: each change as it happens, to the end.")
    ] = "",
) -> Response:
    """How many replicas of a plan serve as it wants them, what the others wait for, and what fails.

    A replica counts only once an engine serves that was started as the plan wants it, and the plan
    has `converged` only once every engine it does not want is gone. `failed`: some replicas failed
    (`replicas` says why), all else is done; the daemon goes on trying. `superseded`: another plan
    was applied (`replaced`). Without `plan_id` it speaks of whatever plan is applied at the moment,
    and is `converging` while the daemon makes another one by itself (`ahead`).
    """
    if wants_stream(accept):
        return EventStream(changes(progress.watch(plan_id)))
    return reply(progress.now(plan_id))
