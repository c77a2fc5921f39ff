"""Serves /profiles: profiles that were measured, estimated or imported."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import BeforeValidator

from partitiond.api.given import ProfileControl
from partitiond.api.profile_rows import ProfileRows
from partitiond.api.replies import Route, problems, reply, reply_bytes
from partitiond.core.errors import NotFoundError
from partitiond.core.profile.record import Profile
from partitiond.core.views.lists import ProfileView
from partitiond.fleet.profile_files import check_schema, check_sound, in_present_schema

router = APIRouter(prefix="/profiles", tags=["profiles"], route_class=Route)

ProfileJson = Annotated[
    Profile,
    BeforeValidator(check_schema),
    Body(description="A profile as exported, of this schema or an older one."),
]


@router.get(
    "",
    operation_id="listProfiles",
    summary="List profiles",
    response_model=list[ProfileView],
)
async def list_profiles(
    profiles: ProfileControl,
    request: Request,
    model: Annotated[str | None, Query(description="Only profiles of this model.")] = None,
    profile_id: Annotated[str | None, Query(alias="id", description="Only this profile.")] = None,
) -> Response:
    """Profiles, newest first, those of removed models included, each with why it is stale.

    `stale` is empty where a profile speaks for the model's revision, the engine's minor version
    and the driver as they are now, or where these are not known.
    """
    if profile_id is None:
        rows: ProfileRows = request.app.state.profile_rows
        views = profiles.views(model)
        return reply_bytes(await rows.of(views, complete=model is None))
    try:
        view = profiles.view(profile_id)
    except NotFoundError:
        return reply([])
    return reply([view] if model in (None, view.profile.model) else [])


# An id may contain a slash (hardware and workload are part of it), hence ":path".
@router.get(
    "/{profile_id:path}",
    operation_id="getProfile",
    summary="Show a profile",
    response_model=Profile,
    responses=problems(404),
)
async def get_profile(profile_id: str, profiles: ProfileControl) -> Response:
    """One profile as it is exported: operating points, knee, footprint and how it came to be."""
    return reply(profiles.view(profile_id).profile)


@router.post(
    "",
    operation_id="importProfile",
    summary="Import a profile",
    status_code=201,
    response_model=Profile,
    responses={200: {"description": "Known already.", "model": Profile}, **problems(409)},
)
async def import_profile(
    profile: ProfileJson,
    profiles: ProfileControl,
    replace: Annotated[
        bool, Query(description="Replace another profile of the same id; else it is a conflict.")
    ] = False,
) -> Response:
    """Keep a profile that was made elsewhere, in the form in which profiles are exported.

    One of an older schema is kept in the present one.
    """
    profile = check_sound(in_present_schema(profile))
    status = 200 if _is_known(profiles, profile) else 201
    kept = profiles.keep(profile, replace=replace)
    return reply(kept, status, {"Location": f"/profiles/{quote(kept.id, safe='')}"})


def _is_known(profiles: ProfileControl, profile: Profile) -> bool:
    try:
        return in_present_schema(profiles.view(profile.id).profile) == profile
    except NotFoundError:
        return False
