"""Serves /models: registered models and their state."""

import contextlib
import dataclasses
from typing import Annotated

from fastapi import APIRouter, Query, Response

from partitiond.api.given import ModelControl, Options
from partitiond.api.replies import (
    ExpectedVersion,
    Route,
    check_version,
    etag,
    no_content,
    problems,
    reply,
)
from partitiond.api.schemas import ModelPatch, ProfileBody, SleepBody
from partitiond.core.errors import ConflictError, PartitiondError, PreconditionFailedError
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSpec
from partitiond.core.profile.jobs import Job
from partitiond.core.views.lists import ModelView
from partitiond.fleet.registration import ModelBody

router = APIRouter(prefix="/models", tags=["models"], route_class=Route)

DryRun = Annotated[bool, Query(description="Store nothing; answer what would be stored.")]
_ETAG = {"ETag": {"description": "Version of what was registered.", "schema": {"type": "string"}}}
_LOCATION = {"Location": {"description": "Path of the result.", "schema": {"type": "string"}}}


@router.post(
    "",
    operation_id="registerModel",
    summary="Register a model",
    status_code=201,
    response_model=ModelRecord,
    responses={
        200: {"description": "Registered like this already.", "model": ModelRecord},
        201: {"description": "Registered.", "headers": _ETAG | _LOCATION},
        **problems(409),
    },
)
async def register_model(
    *, body: ModelBody, models: ModelControl, options: Options, dry_run: DryRun = False
) -> Response:
    """Register a model and, with `auto`, start the chain: estimate, profile, plan.

    Repeating a registration changes nothing and answers 200; another specification under a name
    that is taken is a conflict.
    """
    spec = body.to_spec(options)
    try:
        record, status = await models.register(spec, dry_run=dry_run), 201
    except ConflictError:
        known = await registered_so(models, spec)
        if known is None:
            raise
        record, status = known, 200
    # What is not stored has no version and no place.
    headers = {} if dry_run else etag(record) | {"Location": f"/models/{record.spec.name}"}
    return reply(record, status, headers)


async def registered_so(models: ModelControl, spec: ModelSpec) -> ModelRecord | None:
    """Return what is registered if the spec would change nothing of it, completed by the model's
    config; a revision that was resolved later is ignored."""
    known = {view.record.spec.name: view.record for view in models.models()}.get(spec.name)
    if known is not None and spec.source == dataclasses.replace(known.spec.source, revision=None):
        spec = dataclasses.replace(spec, source=known.spec.source)
    if known is None or spec == known.spec:
        return known
    with contextlib.suppress(PartitiondError):  # what cannot be completed is not the same
        if (await models.update(spec, None, dry_run=True)).version == known.version:
            return known
    return None


@router.get(
    "",
    operation_id="listModels",
    summary="List models",
    response_model=list[ModelView],
)
async def list_models(models: ModelControl) -> Response:
    """All registered models, by name, with what they get."""
    return reply(list(models.models()))


@router.get(
    "/{name}",
    operation_id="getModel",
    summary="Show a model",
    response_model=ModelView,
    responses={200: {"headers": _ETAG}, **problems(404)},
)
async def get_model(name: str, models: ModelControl) -> Response:
    """One model. Its ETag is the version of what was registered, for If-Match."""
    view = models.model(name)
    return reply(view, headers=etag(view.record))


@router.patch(
    "/{name}",
    operation_id="changeModel",
    summary="Change a model",
    response_model=ModelRecord,
    responses={200: {"headers": _ETAG}, **problems(404, 409, 412)},
)
async def change_model(
    *,
    name: str,
    body: ModelPatch,
    models: ModelControl,
    options: Options,
    expected: ExpectedVersion,
    dry_run: DryRun = False,
) -> Response:
    """Change what was registered: absent fields stay, null returns to the default.

    A patch that changes nothing keeps the version.
    """
    record = models.model(name).record
    check_version(record, expected)
    spec = body.apply_to(record.spec, options)
    if spec != record.spec:
        try:
            record = await models.update(spec, record.version, dry_run=dry_run)
        except ConflictError as error:
            raise _as_precondition(error, models, name, expected) from error
    return reply(record, headers={} if dry_run else etag(record))


@router.delete(
    "/{name}",
    operation_id="removeModel",
    summary="Remove a model",
    status_code=204,
    response_class=Response,
    responses=problems(404, 409, 412),
)
async def remove_model(name: str, models: ModelControl, expected: ExpectedVersion) -> Response:
    """Remove a model: its replicas drain and stop, its profiles stay."""
    check_version(models.model(name).record, expected)
    try:
        await models.remove(name, expected)
    except ConflictError as error:
        raise _as_precondition(error, models, name, expected) from error
    return no_content()


def _as_precondition(
    error: ConflictError, models: ModelControl, name: str, expected: int | None
) -> ConflictError:
    """Convert a conflict to a failed precondition, if the request named a version that changed
    between our read and the write. Other conflicts (a model in use) stay conflicts.
    """
    if expected is None or models.model(name).record.version == expected:
        return error
    return PreconditionFailedError(error.message, hint=error.hint, facts=error.facts)


@router.post(
    "/{name}/profile",
    operation_id="profileModel",
    summary="Measure a model",
    status_code=202,
    response_model=Job,
    responses={202: {"description": "Queued.", "headers": _LOCATION}, **problems(404, 409, 503)},
)
async def profile_model(
    name: str, models: ModelControl, body: ProfileBody | None = None
) -> Response:
    """Queue a profile job. `Location` is the job; poll it."""
    options = (body or ProfileBody()).to_options()
    # Refuse a variant that is not listed now, rather than let the job fail.
    models.model(name).record.spec.as_variant(options.variant)
    job = await models.profile(name, options)
    return reply(job, 202, {"Location": f"/jobs/{job.id}"})


@router.post(
    "/{name}/sleep",
    operation_id="sleepModel",
    summary="Put a model to sleep",
    status_code=202,
    response_model=ModelView,
    responses={202: {"description": "It falls asleep."}, **problems(404, 409)},
)
async def sleep_model(name: str, models: ModelControl, body: SleepBody | None = None) -> Response:
    """Finish what runs, then have its engines give up their memory; they keep their processes.

    Repeating it changes nothing. The first request wakes it, unless `sleep.wake_on_request` is
    off.
    """
    return reply(models.put_to_sleep(name, (body or SleepBody()).level), 202)


@router.post(
    "/{name}/wake",
    operation_id="wakeModel",
    summary="Wake a model",
    status_code=202,
    response_model=ModelView,
    responses={202: {"description": "It wakes."}, **problems(404)},
)
async def wake_model(name: str, models: ModelControl) -> Response:
    """Give its engines their memory back; where that was given away, the next plan says how."""
    return reply(models.wake(name), 202)
