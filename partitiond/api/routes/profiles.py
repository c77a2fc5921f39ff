"""/profiles: what was measured, estimated or brought from elsewhere."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Body, Query, Response

from partitiond.api.replies import Service, problems, reply
from partitiond.core.errors import NotFoundError, ProfileError
from partitiond.core.profile import SCHEMA_VERSION, Profile

router = APIRouter(prefix="/profiles", tags=["profiles"])

ProfileJson = Annotated[Profile, Body(description="A profile as exported.")]


@router.get(
    "",
    operation_id="listProfiles",
    summary="List profiles",
    response_model=list[Profile],
)
async def list_profiles(
    service: Service,
    model: Annotated[str | None, Query(description="Only profiles of this model.")] = None,
) -> Response:
    """Profiles, newest first, those of removed models included."""
    return reply(list(service.profiles(model)))


# An id may hold a slash (hardware and workload are part of it): hence ":path".
@router.get(
    "/{profile_id:path}",
    operation_id="getProfile",
    summary="Show a profile",
    response_model=Profile,
    responses=problems(404),
)
async def get_profile(profile_id: str, service: Service) -> Response:
    """One profile: operating points, knee, footprint and how it came to be."""
    return reply(service.profile_by_id(profile_id))


@router.post(
    "",
    operation_id="importProfile",
    summary="Import a profile",
    status_code=201,
    response_model=Profile,
    responses={200: {"description": "Known already.", "model": Profile}, **problems(409)},
)
async def import_profile(profile: ProfileJson, service: Service) -> Response:
    """Keep a profile that was made elsewhere, in the form in which profiles are exported."""
    if profile.schema_version != SCHEMA_VERSION:
        raise ProfileError(
            f"the profile has schema {profile.schema_version}; this daemon reads {SCHEMA_VERSION}.",
            hint="Export it again with this version of partitiond.",
        )
    status = 200 if _is_known(service, profile) else 201
    kept = service.import_profile(profile)
    return reply(kept, status, {"Location": f"/profiles/{quote(kept.id, safe='')}"})


def _is_known(service: Service, profile: Profile) -> bool:
    try:
        return service.profile_by_id(profile.id) == profile
    except NotFoundError:
        return False
