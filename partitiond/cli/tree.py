"""Lists the commands of `partitiond`: their place, help line, home and headings of options.

Commands stay in their modules. `groups.py` imports a command's module once the command is chosen.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final


@dataclasses.dataclass(frozen=True, slots=True)
class Leaf:
    """One command of the table.

    Attributes:
        help: first sentence of the function's docstring; a test compares both.
        home: "module:function" below `partitiond.cli`.
        headings: less common options, by the heading under which the command's help lists them.
    """

    help: str
    home: str
    headings: "Headings" = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Branch:
    """A group of commands of the table.

    Attributes:
        bare: the command that runs when none is named; None: the group's help is shown.
        explained: the command that runs when only options or arguments of a command are given,
            and whose options the group's help shows; `bare` if None.
    """

    help: str
    entries: "Entries"
    bare: str | None = "list"
    explained: str | None = None
    metavar: str | None = None


Entries = Mapping[str, Leaf | Branch]
Headings = Mapping[str, str]
"""Names of options, by heading; spaces stand between them."""

HEADINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "Start": ("doctor", "setup", "serve", "down"),
    "Models, from measuring to serving": ("models", "profile", "plan", "apply", "up"),
    "Several hosts": ("hosts", "host"),
    "Watch": ("status", "events", "devices"),
    "Access": ("keys",),
    "Instruments": ("tools", "schema"),
}
"""The commands of the overview, in the order in which a new user meets them."""

PRECISION: Final = "--dtype --quantization --kv-cache-dtype --max-model-len"
ENGINE: Final = f"{PRECISION} --max-num-batched-tokens --engine-arg"
LIMITS: Final = "--max-prompt-bytes --max-output-tokens --max-sequences"
MODEL_OPTIONS: Final[Headings] = {
    "Scaling and sleep": "--autoscale --scale-to-zero --sleep-mode --sleep-after",
    "Placement": "--isolation --only-on --avoid --near --survive --survive-share --priority "
    "--weight --allow-outage",
    "Traffic in detail": "--lengths --prompt-variation --output-variation --quantile --point "
    "--burst-factor --percentile --window",
    "Engine": f"--engine-kind --hub --revision --variant {ENGINE}",
    "Requests": f"--alias --default {LIMITS}",
}
"""Less common options of `models add` and `models update`, by heading."""
MEASURE_OPTIONS: Final[Headings] = {
    "A share of the device": "--device --cores --memory --mps --mig",
    "The measurement": "--max-batch --time-limit --no-confirm --seed --quantile --lengths "
    "--prompt-variation --output-variation",
    "Engine": f"--engine-kind --hub --variant {ENGINE}",
}
PLAN_OPTIONS: Final[Headings] = {
    "Ask more": "--what-if --explain --diff --relax",
    "Of running replicas": "--move-price --allow-outage",
    "With --from alone": "--against --time-limit --seed --deterministic",
}
KEY_OPTIONS: Final[Headings] = {
    "Rates and budget": "--requests-per-minute --tokens-per-minute --max-in-flight --token-budget",
    "Place in the queue": "--priority --weight",
    "Limits of a request": LIMITS,
}
USAGE_OPTIONS: Final[Headings] = {"What was used": "--usage --since --until --by"}
ESTIMATE_OPTIONS: Final[Headings] = {
    "A share of the device": "--mig --sm-percent --cores --memory-fraction",
    "Traffic in detail": "--prompt-variation --output-variation --slo-ttft --slo-tpot",
    "Engine": PRECISION,
}

_ENGINE: Final[Entries] = {
    "install": Leaf(
        "Install vLLM, or Ray, in an environment of its own, with pinned versions.",
        "setup.engine:install",
    ),
}

_CONFIG: Final[Entries] = {
    "show": Leaf(
        "Show every setting, its value and where the value came from.", "setup.config:show"
    ),
    "set": Leaf("Write settings to the settings file, and check them.", "setup.config:set_values"),
}

_SETUP: Final[Entries] = {
    "host": Leaf("Set this host up for partitiond as a system service.", "setup.commands:setup"),
    "backup": Leaf("Write models, profiles, plans and keys to one file.", "setup.backup:backup"),
    "restore": Leaf("Put a backup back into the state folder.", "setup.backup:restore"),
    "engine": Branch("The engine's environment, and Ray's.", _ENGINE, bare=None),
    "config": Branch("Settings: what holds, where it came from, changes.", _CONFIG, bare="show"),
}

_MODELS: Final[Entries] = {
    "add": Leaf(
        "Register a model, and start the chain with --auto.", "models.commands:add", MODEL_OPTIONS
    ),
    "show": Leaf("List registered models, or show one in full.", "models.commands:show"),
    "update": Leaf(
        "Change what was registered; the rest stays.", "models.commands:update", MODEL_OPTIONS
    ),
    "remove": Leaf("Remove a model: its replicas drain and stop.", "models.commands:remove"),
    "rollback": Leaf("Go back to an earlier release of a model.", "models.releases:rollback"),
    "catalog": Leaf(
        "List the models that are known by name, or show one.", "models.catalog:catalog"
    ),
    "sleep": Leaf(
        "Put a model to sleep: its engines give up their memory; or wake it.", "models.sleep:sleep"
    ),
}

_PROFILE: Final[Entries] = {
    "measure": Leaf(
        "Measure where a model stops getting faster.", "profile.measure:profile", MEASURE_OPTIONS
    ),
    "show": Leaf("List profiles, newest first, or show all of one.", "profile.kept:show"),
    "import": Leaf("Keep profiles that were measured elsewhere.", "profile.kept:import_profiles"),
    "jobs": Leaf("List jobs, newest first; watch one, or cancel it.", "profile.jobs:jobs"),
}

_DEVICES: Final[Entries] = {
    "show": Leaf("List the devices of all hosts, or show all of one.", "devices.commands:show"),
    "cordon": Leaf("Place nothing on a device, until it is lifted.", "devices.commands:cordon"),
}

_HOSTS: Final[Entries] = {
    "list": Leaf(
        "List the hosts of the fleet, forget one, or make them obey this head.",
        "hosts.listing:list_hosts",
    ),
}

_KEYS: Final[Entries] = {
    "create": Leaf(
        "Make a key and print it once; only its hash is kept.", "keys.commands:create", KEY_OPTIONS
    ),
    "show": Leaf(
        "List keys, show what one may do, or what all used.", "keys.commands:show", USAGE_OPTIONS
    ),
    "update": Leaf(
        "Change what a key may do, from now on; give it another secret.",
        "keys.commands:update",
        KEY_OPTIONS,
    ),
    "remove": Leaf(
        "Remove a key: requests with it are refused from now on.", "keys.commands:remove"
    ),
}

_SIMULATE: Final[Entries] = {
    "create": Leaf(
        "Make a simulated host, or list those that come with partitiond.", "tools.simulate:create"
    ),
    "break": Leaf(
        "Let something happen to a simulated host in use, or show it.", "tools.simulate:break_host"
    ),
    "fleet": Leaf(
        "Simulate a fleet under load: goodput, latency, GPU hours, energy.",
        "tools.simulate_fleet:fleet",
    ),
}

_TOOLS: Final[Entries] = {
    "estimate": Leaf(
        "Estimate a model on a device, without one.", "tools.estimate:estimate", ESTIMATE_OPTIONS
    ),
    "advise": Leaf(
        "Say which GPUs a plan would free of a running deployment.", "tools.advise:advise"
    ),
    "simulate": Branch(
        "Simulated GPU hosts to try things on, and a simulated fleet.", _SIMULATE, bare=None
    ),
}

_HOST: Final[Entries] = {
    "certificate": Leaf(
        "Show this host's certificate, or make one for a host that is to join.",
        "hosts.certificate:certificate",
    ),
    "join": Leaf(
        "Run this host's agent in the foreground: it does what the head decides.",
        "hosts.joining:join",
    ),
}

TREE: Final[Entries] = {
    "doctor": Leaf(
        "Check what partitiond needs here, and say what to do.", "doctor.commands:doctor"
    ),
    "serve": Leaf("Run the daemon in the foreground.", "daemon:serve"),
    "down": Leaf(
        "Stop the daemon, or this host's agent, and all that it runs; wait.", "daemon:down"
    ),
    "status": Leaf("Show models, replicas and the plan that is applied.", "daemon:status"),
    "plan": Leaf(
        "Show what would run where, and how good that provably is.",
        "plan.commands:plan",
        PLAN_OPTIONS,
    ),
    "apply": Leaf("Apply a plan and wait until it runs.", "plan.commands:apply"),
    "up": Leaf("Make the fleet of a file run; change nothing the second time.", "plan.up:up"),
    "events": Leaf("Show what happened, why, and who asked for it.", "events:events"),
    "setup": Branch("Set this host up: service, engines, settings, backups.", _SETUP, bare="host"),
    "models": Branch("Register, show, change, remove; sleep and wake.", _MODELS, bare="show"),
    "profile": Branch(
        "Measure where a model stops getting faster; show profiles.",
        _PROFILE,
        bare="show",
        explained="measure",
        metavar="MODEL | COMMAND [ARGS]...",
    ),
    "devices": Branch("Devices: list, show, cordon.", _DEVICES, bare="show"),
    "host": Branch("This host among several: join a head, certificates.", _HOST, bare=None),
    "hosts": Branch("Hosts of the fleet: list, forget, take over.", _HOSTS),
    "keys": Branch("API keys of the endpoint.", _KEYS, bare="show"),
    "schema": Leaf("Show every key of a fleet file or of the settings file.", "schema:schema"),
    "tools": Branch(
        "Estimate models, advise on a deployment, simulate GPU hosts.", _TOOLS, bare=None
    ),
}
"""Every command. The reference page lists them in this order."""
