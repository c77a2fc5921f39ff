"""/plan: what would run, what shall run."""

from fastapi import APIRouter, Response

from partitiond.api.replies import Service, problems, reply
from partitiond.api.schemas import ApplyBody, PlanBody
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
)
async def preview_plan(service: Service, body: PlanBody | None = None) -> Response:
    """Plan for what is registered, and what applying it would change. Nothing is changed.

    `infeasible` says why there is no plan and what would make it fit.
    """
    return reply(await service.plan((body or PlanBody()).objective))


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
