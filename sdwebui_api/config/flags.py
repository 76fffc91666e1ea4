"""The command line: one row per flag, spelled as A1111 and EAS spell them.

Every field of `Flags` is one flag (`no_half` is `--no-half`); `build_parser` reads the rows, so a new flag is one
line here. Nothing but the standard library is imported: `launch.py --help` runs on a bare Python.
Flags of A1111 that steer parts this server does not have are accepted, listed under "accepted, without effect".
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import logging
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

DEFAULT_PORT = 7860
DEFAULT_MAX_QUEUE = 256
"""Waiting jobs. A waiting img2img job holds some 5 to 10 MB (its images, decoded), so 256 stay near 2 GB at worst, and
at 2 s an image the last one waits for more than eight minutes: longer than clients and proxies keep a request open."""

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
SECRET_FLAGS = ("token", "api_auth", "gradio_auth", "ngrok")
GROUPS = (
    "start", "server", "models", "precision and memory", "queue", "results and links", "page",
    "accepted, without effect",
)  # fmt: skip


def _row(group: str, help: str, default: Any, **argument: Any) -> Any:
    metadata = {"group": group, "help": help, "argument": argument}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _switch(group: str, help: str, *, default: bool = False) -> Any:
    return _row(group, help, default, action="store_true")


def _text(group: str, help: str, default: str | None = None, *, metavar: str = "TEXT", **more: Any) -> Any:
    return _row(group, help, default, metavar=metavar, **more)


def _path(group: str, help: str, default: str | Callable[[], str] | None = None) -> Any:
    return _row(group, help, default, metavar="PATH")


def _number(
    group: str, help: str, default: float | None, kind: Callable[[str], float | None], metavar: str = "N"
) -> Any:
    return _row(group, help, default, type=kind, metavar=metavar)


def _words(group: str, help: str, *, nargs: str = "+", metavar: str = "NAME", **more: Any) -> Any:
    return _row(group, help, (), nargs=nargs, metavar=metavar, **more)


def _repeated(group: str, help: str, metavar: str = "PATH") -> Any:
    return _row(group, help, (), action="append", metavar=metavar)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _at_least(smallest: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        value = _whole(text)
        if value < smallest:
            raise argparse.ArgumentTypeError(f"{value} is too small, at least {smallest}")
        return value

    return whole_number


def _count_or_auto(text: str) -> int | None:
    return None if text.lower() == "auto" else _at_least(1)(text)


def _within(smallest: int, largest: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        value = _whole(text)
        if not smallest <= value <= largest:
            raise argparse.ArgumentTypeError(f"{value} is not within {smallest} to {largest}")
        return value

    return whole_number


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _port(text: str) -> int:
    value = _whole(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{value} is not a port, 0 to 65535 (0: any free one)")
    return value


def default_data_dir() -> str:
    """The checkout this package lies in; the current folder when it was installed somewhere else."""
    checkout = Path(__file__).resolve().parents[2]
    return str(checkout if (checkout / "launch.py").exists() else Path.cwd())


START, SERVER, MODELS, MEMORY, QUEUE, RESULTS, PAGE, IDLE = GROUPS


@dataclass(frozen=True)
class Flags:
    """What the command line says. Paths are as typed; `config.paths.Paths` makes them absolute."""

    # start
    skip_prepare_environment: bool = _switch(START, "start in the current Python, install nothing")
    loglevel: str | None = _text(
        START, "how much to log, default INFO", metavar="|".join(LOG_LEVELS), type=str.upper, choices=LOG_LEVELS
    )
    api_log: bool = _switch(START, "log every API request, one structured line each")
    api_log_prompts: bool = _switch(START, "the same with prompts, which are left out otherwise")
    time_log: bool = _switch(START, "log how long every request took")
    skip_load_model_at_start: bool = _switch(START, "load the checkpoint with the first request, not at the start")
    # server
    listen: bool = _switch(SERVER, "answer on every network interface (0.0.0.0) instead of this machine only")
    server_name: str | None = _text(SERVER, "address to listen on", metavar="ADDRESS")
    port: int = _number(SERVER, f"port to listen on, default {DEFAULT_PORT}", DEFAULT_PORT, _port, "PORT")
    api: bool = _switch(SERVER, "serve the API (always on; accepted for A1111 start scripts)")
    nowebui: bool = _switch(SERVER, "serve the API only, no page")
    api_auth: str | None = _text(SERVER, "HTTP basic authentication", metavar="USER:PASSWORD[,USER:PASSWORD]")
    token: str | None = _text(SERVER, "token every request must carry, bare or as Bearer", metavar="TOKEN")
    token_file: str | None = _path(SERVER, "file of several such tokens, a line each: TOKEN or USER:TOKEN")
    cluster: bool = _switch(SERVER, "every user has own models, outputs and settings, and sees nobody else's")
    user_header: str | None = _text(SERVER, "--cluster: request header that names the user", metavar="NAME")
    trusted_proxies: str | None = _text(
        SERVER, "addresses from which that header is believed; it is ignored from elsewhere", metavar="CIDR[,CIDR]"
    )
    cors_allow_origins: str | None = _text(SERVER, "origins browsers may call from", metavar="ORIGIN[,ORIGIN]")
    cors_allow_origins_regex: str | None = _text(SERVER, "the same as a regular expression", metavar="REGEX")
    tls_keyfile: str | None = _path(SERVER, "private key, to serve https")
    tls_certfile: str | None = _path(SERVER, "certificate, to serve https")
    subpath: str | None = _text(SERVER, "path prefix behind a reverse proxy", metavar="PREFIX")
    timeout_keep_alive: int = _number(SERVER, "seconds an idle connection is kept open", 30, _at_least(0), "SECONDS")
    api_server_stop: bool = _switch(SERVER, "allow server-kill, server-restart and server-stop")
    add_stop_route: bool = _switch(SERVER, "add POST /_stop, which finishes what was admitted and stops the server")
    lenient: bool = _switch(SERVER, "unknown sampler and schedule names fall back silently, as in A1111")
    # models
    data_dir: str = _path(MODELS, "folder of models, outputs and settings, default: this checkout", default_data_dir)
    models_dir: str | None = _path(MODELS, "folder of models, default DATA_DIR/model_store (or DATA_DIR/models)")
    ckpt: str | None = _path(MODELS, "checkpoint to start with: a file, or the name of a listed one")
    ckpt_dir: str | None = _path(MODELS, "additional folder of checkpoints")
    vae_dir: str | None = _path(MODELS, "additional folder of VAEs (--cluster: in place of the users' own)")
    vae_path: str | None = _path(MODELS, "use this VAE always, whatever the settings say")
    lora_dir: str | None = _path(MODELS, "additional folder of LoRAs (--cluster: beside the users' own)")
    lyco_dir_backcompat: str | None = _path(MODELS, "folder of LyCORIS files")
    embeddings_dir: str | None = _path(
        MODELS, "folder of textual inversion embeddings (--cluster: in place of the users' own)"
    )
    hypernetwork_dir: str | None = _path(MODELS, "folder of hypernetworks (--cluster: in place of the users' own)")
    controlnet_dir: str | None = _path(MODELS, "additional folder of ControlNet models")
    gfpgan_dir: str | None = _path(MODELS, "folder of GFPGAN (--cluster: in place of the users' own)")
    gfpgan_model: str | None = _path(MODELS, "GFPGAN model file")
    codeformer_models_path: str | None = _path(MODELS, "folder of CodeFormer models")
    gfpgan_models_path: str | None = _path(MODELS, "folder of GFPGAN models")
    esrgan_models_path: str | None = _path(MODELS, "folder of ESRGAN models")
    bsrgan_models_path: str | None = _path(MODELS, "folder of BSRGAN models")
    realesrgan_models_path: str | None = _path(MODELS, "folder of RealESRGAN models")
    dat_models_path: str | None = _path(MODELS, "folder of DAT models")
    ldsr_models_path: str | None = _path(MODELS, "folder of LDSR models")
    scunet_models_path: str | None = _path(MODELS, "folder of ScuNET models")
    swinir_models_path: str | None = _path(MODELS, "folder of SwinIR models")
    clip_models_path: str | None = _path(MODELS, "folder of interrogation models, default MODELS_DIR/interrogate")
    styles_file: tuple[str, ...] = _repeated(MODELS, "styles.csv file or pattern; may be repeated")
    ui_settings_file: str | None = _path(MODELS, "file of the settings, default DATA_DIR/config.json")
    no_hashing: bool = _switch(MODELS, "compute no sha256 of model files")
    # precision and memory
    no_half: bool = _switch(MEMORY, "32-bit weights everywhere")
    no_half_vae: bool = _switch(MEMORY, "32-bit VAE")
    precision: str = _row(MEMORY, "full: 32-bit everywhere", "autocast", choices=("full", "half", "autocast"))
    upcast_sampling: bool = _switch(MEMORY, "accepted; latents are 32-bit always")
    xformers: bool = _switch(MEMORY, "use xformers attention when it is installed")
    force_enable_xformers: bool = _switch(MEMORY, "use xformers even where it is not thought to work")
    opt_sdp_attention: bool = _switch(MEMORY, "PyTorch's scaled dot product attention (the default)")
    opt_sdp_no_mem_attention: bool = _switch(MEMORY, "the same without its memory-efficient kernel")
    lowvram: bool = _switch(MEMORY, "bring the part in use to the GPU block by block")
    medvram: bool = _switch(MEMORY, "keep only the part in use on the GPU")
    medvram_sdxl: bool = _switch(MEMORY, "--medvram for SDXL checkpoints only")
    lowram: bool = _switch(MEMORY, "accepted; weights are loaded straight to the GPU")
    use_cpu: tuple[str, ...] = _words(MEMORY, "parts to run on the CPU, or `all`", metavar="PART", type=str.lower)
    device_id: str | None = _text(MEMORY, "CUDA device to use", metavar="N")
    disable_nan_check: bool = _switch(MEMORY, "do not look for NaN in results")
    opt_channelslast: bool = _switch(MEMORY, "channels-last memory layout")
    blade: bool = _switch(MEMORY, "compiled acceleration (EAS)")
    min_ram_reserved: float | None = _number(MEMORY, "GB of RAM the checkpoint cache leaves free", None, float, "GB")
    sd_dynamic_cache: bool = _switch(MEMORY, "keep as many checkpoints in RAM as fit, 2 GB left free")
    # queue
    max_step_batch: int | None = _number(
        QUEUE,
        "requests that may share a forward pass; default auto: as many as the clock finds worth it; 1 for "
        "bit-stable runs",
        None,
        _count_or_auto,
        "N|auto",
    )
    max_queue: int = _number(
        QUEUE, f"waiting jobs before 429, default {DEFAULT_MAX_QUEUE}", DEFAULT_MAX_QUEUE, _at_least(1)
    )
    service_name: str = _text(QUEUE, "name of the queue service, default sd_async", "sd_async", metavar="NAME")
    queue_url: str | None = _text(
        QUEUE,
        "where requests are kept: redis://HOST:PORT/DB, or sqlite:///FILE (default: DATA_DIR/queue.sqlite3)",
        metavar="URL",
    )
    queue_config: str | None = _path(QUEUE, "EAS service description (JSON); the flags below win over it")
    queue_max_payload: int = _number(
        QUEUE, "largest message in bytes, default and at most 1048576; 8192 is advised", 2**20, _within(1, 2**20)
    )
    queue_max_length: int = _number(
        QUEUE, "messages a queue may hold before 429, default 100000", 100_000, _at_least(1)
    )
    queue_retention: float = _number(
        QUEUE, "seconds unread results are kept, default 86400", 86_400.0, _positive, "SECONDS"
    )
    queue_lease: float = _number(
        QUEUE, "seconds after which the work of a silent worker goes to another, default 30", 30.0, _positive, "SECONDS"
    )
    max_delivery: int | None = _number(
        QUEUE, "how often a request is tried when workers die over it, default 1", None, _at_least(1)
    )
    worker_threads: int | None = _number(
        QUEUE, "requests a worker runs side by side, default: the room of the step batch; 0: no worker here",
        None, _at_least(0),
    )  # fmt: skip
    drain_seconds: float = _number(
        QUEUE, "how long SIGTERM waits for running work, default 120", 120.0, _positive, "SECONDS"
    )
    metrics_port: int | None = _number(
        QUEUE, "`launch.py worker`: port of /metrics and /health, default none", None, _port, "PORT"
    )
    callback_secret_file: str | None = _path(QUEUE, "file of the secret that signs callbacks (or CALLBACK_SECRET)")
    # results and links
    allow_save_dir: tuple[str, ...] = _repeated(RESULTS, "folder outside DATA_DIR that save_dir may name; repeatable")
    oss_endpoint: str | None = _text(RESULTS, "Alibaba Cloud OSS endpoint", metavar="URL")
    oss_bucket: str | None = _text(RESULTS, "bucket results are uploaded to", metavar="NAME")
    oss_prefix: str = _text(RESULTS, "prefix of every key in the bucket", "", metavar="PREFIX")
    oss_mount: str | None = _path(RESULTS, "folder that stands for the bucket: a save_dir below it is uploaded")
    oss_url_style: str | None = _row(
        RESULTS, "form of image_url: the mount's path, oss://, public or signed URL, default: as save_dir", None,
        choices=("mount", "oss", "public", "signed"),
    )  # fmt: skip
    oss_url_expires: int = _number(RESULTS, "seconds a signed URL is good for, default 86400", 86_400, _at_least(1))
    s3_endpoint: str | None = _text(RESULTS, "S3-compatible endpoint (needs boto3), for s3://", metavar="URL")
    s3_bucket: str | None = _text(RESULTS, "its bucket", metavar="NAME")
    s3_prefix: str = _text(RESULTS, "prefix of every key in it", "", metavar="PREFIX")
    image_link_allow: tuple[str, ...] = _repeated(
        RESULTS, "internal hosts, .suffixes, or CIDRs that image_link and callback_url may reach; repeatable", "HOST"
    )
    image_link_max_mb: float = _number(RESULTS, "largest picture fetched by URL, default 32", 32.0, _positive, "MB")
    image_link_timeout: float = _number(RESULTS, "seconds for fetching one, default 30", 30.0, _positive, "SECONDS")
    # page
    filebrowser: bool = _switch(PAGE, "show the file browser tab")
    enable_nsfw_censor: bool = _switch(PAGE, "blacken pictures that are not safe for work")
    always_hide_tabs: tuple[str, ...] = _words(PAGE, "tabs to hide", nargs="*", metavar="TAB")
    root_extensions: bool = _switch(PAGE, "--cluster: all users share one set of extensions (they always do here)")
    max_batch_count: int = _number(PAGE, "largest batch count on the page", 16, _at_least(1))
    share: bool = _switch(PAGE, "accepted; no tunnel is made")
    autolaunch: bool = _switch(PAGE, "open the page in a browser at the start")
    theme: str | None = _text(PAGE, "dark or light", metavar="THEME")
    gradio_auth: str | None = _text(PAGE, "log-ins of the page", metavar="USER:PASSWORD[,USER:PASSWORD]")
    gradio_auth_path: str | None = _path(PAGE, "file of log-ins of the page")
    gradio_allowed_path: tuple[str, ...] = _repeated(PAGE, "folder the page may serve files from")
    ui_config_file: str | None = _path(PAGE, "file of the page's defaults, default DATA_DIR/ui-config.json")
    localizations_dir: str | None = _path(
        PAGE, "folder of translations, <language>.json, default DATA_DIR/localizations"
    )
    localization: str | None = _text(PAGE, "language of the page: zh_CN, en; default: the setting", metavar="LANGUAGE")
    freeze_settings: bool = _switch(PAGE, "refuse changes of settings")
    freeze_settings_in_sections: str | None = _text(PAGE, "refuse changes in these sections", metavar="NAME[,NAME]")
    freeze_specific_settings: str | None = _text(PAGE, "refuse changes of these settings", metavar="NAME[,NAME]")
    hide_ui_dir_config: bool = _switch(PAGE, "hide the output folders on the page")
    disable_all_extensions: bool = _switch(PAGE, "load no extension")
    disable_extra_extensions: bool = _switch(PAGE, "load only built-in extensions")
    # accepted, without effect
    f: bool = _row(IDLE, "", False, action="store_true", spelling="-f")
    enable_insecure_extension_access: bool = _switch(IDLE, "")
    unix_filenames_sanitization: bool = _switch(IDLE, "")
    filenames_max_length: int = _number(IDLE, "", 128, int)
    update_all_extensions: bool = _switch(IDLE, "")
    skip_python_version_check: bool = _switch(IDLE, "")
    skip_torch_cuda_test: bool = _switch(IDLE, "")
    reinstall_xformers: bool = _switch(IDLE, "")
    reinstall_torch: bool = _switch(IDLE, "")
    update_check: bool = _switch(IDLE, "")
    test_server: bool = _switch(IDLE, "")
    log_startup: bool = _switch(IDLE, "")
    skip_install: bool = _switch(IDLE, "")
    dump_sysinfo: bool = _switch(IDLE, "")
    do_not_download_clip: bool = _switch(IDLE, "")
    config: str | None = _path(IDLE, "")
    no_progressbar_hiding: bool = _switch(IDLE, "")
    textual_inversion_templates_dir: str | None = _path(IDLE, "")
    allow_code: bool = _switch(IDLE, "")
    always_batch_cond_uncond: bool = _switch(IDLE, "")
    unload_gfpgan: bool = _switch(IDLE, "")
    ngrok: str | None = _text(IDLE, "")
    ngrok_region: str = _text(IDLE, "", "")
    ngrok_options: Mapping[str, Any] = _row(IDLE, "", dict, type=json.loads, metavar="JSON")
    xformers_flash_attention: bool = _switch(IDLE, "")
    deepdanbooru: bool = _switch(IDLE, "")
    opt_split_attention: bool = _switch(IDLE, "")
    opt_sub_quad_attention: bool = _switch(IDLE, "")
    sub_quad_q_chunk_size: int = _number(IDLE, "", 1024, int)
    sub_quad_kv_chunk_size: int | None = _number(IDLE, "", None, int)
    sub_quad_chunk_threshold: int | None = _number(IDLE, "", None, int)
    opt_split_attention_invokeai: bool = _switch(IDLE, "")
    opt_split_attention_v1: bool = _switch(IDLE, "")
    disable_opt_split_attention: bool = _switch(IDLE, "")
    use_ipex: bool = _switch(IDLE, "")
    disable_model_loading_ram_optimization: bool = _switch(IDLE, "")
    show_negative_prompt: bool = _switch(IDLE, "")
    gradio_debug: bool = _switch(IDLE, "")
    gradio_img2img_tool: str | None = _text(IDLE, "")
    gradio_inpaint_tool: str | None = _text(IDLE, "")
    use_textbox_seed: bool = _switch(IDLE, "")
    disable_console_progressbars: bool = _switch(IDLE, "")
    enable_console_prompts: bool = _switch(IDLE, "")
    disable_safe_unpickle: bool = _switch(IDLE, "")
    ui_debug_mode: bool = _switch(IDLE, "")
    administrator: bool = _switch(IDLE, "")
    disable_tls_verify: bool | None = _row(IDLE, "", None, action="store_true")
    gradio_queue: bool = _switch(IDLE, "", default=True)
    no_gradio_queue: bool = _switch(IDLE, "")
    skip_version_check: bool = _switch(IDLE, "")
    no_download_sd_model: bool = _switch(IDLE, "")
    no_prompt_history: bool = _switch(IDLE, "")

    @property
    def host(self) -> str:
        """The address to bind: `--server-name`, else every interface with `--listen`, else this machine only."""
        return self.server_name or ("0.0.0.0" if self.listen else "127.0.0.1")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, for GET /cmd-flags. Secrets read `***`; a value whose default is null is a string, as there."""
        answer = dataclasses.asdict(self)
        for name, value in answer.items():
            if name in SECRET_FLAGS and value:
                answer[name] = "***"
            elif name == "queue_url" and value:
                answer[name] = without_password(value)
            elif isinstance(value, tuple):
                answer[name] = list(value)
            elif isinstance(value, int | float) and not isinstance(value, bool) and name in _STRINGS_ON_THE_WIRE:
                answer[name] = str(value)
        return answer


@dataclass(frozen=True)
class UserFlags(Flags):
    """The command line as it holds for one user of `--cluster`: the data directory is the user's own."""

    server: Flags = dataclasses.field(default_factory=Flags)

    @classmethod
    def of(cls, server: Flags, home: Path) -> UserFlags:
        """`home`: the user's folder. Files that are the server's own are the user's own there."""
        same = {row.name: getattr(server, row.name) for row in fields(Flags)}
        own = {"data_dir": str(home), "models_dir": None, "ui_settings_file": None, "ui_config_file": None}
        return cls(**{**same, **own, "styles_file": ()}, server=server)

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().as_dict().items() if name != "server"}


def without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or ''}:***@{host}").geturl()


_STRINGS_ON_THE_WIRE = ("port", "sub_quad_kv_chunk_size", "sub_quad_chunk_threshold")
"""Numbers that A1111 answers as strings, because its schema guesses types from the (null) defaults."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of every row of `Flags`, grouped for `--help`."""
    parser = argparse.ArgumentParser(
        prog="launch.py",
        usage="launch.py [frontend|worker] [FLAG ...]; launch.py --help lists the flags",
        description="Stable Diffusion server, compatible with the A1111 WebUI API. `launch.py test` runs the tests.",
        epilog="Flags may also be given in the environment variable COMMANDLINE_ARGS. Unknown flags are ignored.",
        allow_abbrev=False,
    )
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    for row in fields(Flags):
        argument = dict(row.metadata["argument"])
        spelling = argument.pop("spelling", "--" + row.name.replace("_", "-"))
        # Absent flags stay out of the namespace, so that the defaults live in the dataclass alone.
        groups[row.metadata["group"]].add_argument(
            spelling, dest=row.name, default=argparse.SUPPRESS, help=row.metadata["help"], **argument
        )
    return parser


def _with_guess(word: str) -> str:
    """An unknown word of the command line, with the flag that was perhaps meant."""
    spellings = ["--" + row.name.replace("_", "-") for row in fields(Flags)]
    meant = difflib.get_close_matches(word.partition("=")[0], spellings, 1, 0.75) if word.startswith("--") else []
    return f"{word} (did you mean {meant[0]}?)" if meant else word


def parse_flags(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Flags:
    """Flags from COMMANDLINE_ARGS followed by `argv` (which wins). Unknown ones are logged and ignored.

    Exits the process, as argparse does, for `--help` and for a known flag with an unusable value.
    """
    words = [*shlex.split(environ.get("COMMANDLINE_ARGS", "")), *argv]
    known, unknown = build_parser().parse_known_args(words)
    if unknown:
        logger.warning("unknown flags are ignored: %s", " ".join(map(_with_guess, unknown)))
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in vars(known).items()
    }
    return Flags(**given)
