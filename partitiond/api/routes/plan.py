"""/plan: what would run, what shall run."""

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from partitiond.api.plan_schemas import PlanBody
from partitiond.api.plan_stream import OPENAPI, plan_events, wants_stream
from partitiond.api.replies import Service, problems, reply
from partitiond.api.schemas import ApplyBody
from partitiond.api.streams import EventStream
from partitiond.core.errors import NotFoundError
from partitiond.core.plan import Plan
from partitiond.ports import PlanPreview

router = APIRouter(prefix="/plan", tags=["plan"])


@router.get(
    "",
    operation_id="getPlan",
    summary="Show the applied plan",
    response_model=Plan,
    responses=problems(404),
)
async def get_plan(service: Service) -> Response:
    """The plan that is applied, with its certificate and explanation."""
    plan = service.current_plan()
    if plan is None:
        raise NotFoundError(
            "no plan is applied yet.", hint="POST /plan shows one, POST /plan/apply applies it."
        )
    return reply(plan)


@router.post(
    "",
    operation_id="previewPlan",
    summary="Make a plan (dry run)",
    response_model=PlanPreview,
    responses=OPENAPI,
)
async def preview_plan(
    service: Service,
    request: Request,
    body: PlanBody | None = None,
    accept: Annotated[
        str, Header(description="text/event-stream: progress as it happens, then the plan.")
    ] = "",
) -> Response:
    """Plan for what is registered, and what applying it would change. Nothing is changed.

    `infeasible` says why there is no plan and what would make it fit; `answers` holds what else
    was asked: alternatives beside the plan, what each constraint costs, why a model is where it
    is, and what would make everything fit. Each further plan takes up to half of the time limit.
    """
    question = (body or PlanBody()).to_question()
    if wants_stream(accept):
        return EventStream(plan_events(lambda take: service.plan(question, take), request.url.path))
    return reply(await service.plan(question))


@router.post(
    "/apply",
    operation_id="applyPlan",
    summary="Apply a plan",
    response_model=PlanPreview,
    responses=problems(404, 409),
)
async def apply_plan(service: Service, body: ApplyBody | None = None) -> Response:
    """Apply a previewed plan by its id, or a fresh one.

    A preview that is outdated (models, profiles or devices changed since) is a conflict. The
    answer comes when the plan is the desired one; GET /replicas shows how far the host is.
    """
    return reply(await service.apply((body or ApplyBody()).plan_id))
