"""The fields of the tab Train: names of the API's bodies → components."""

from __future__ import annotations

import gradio as gr
from gradio.components import Component

from sdwebui_api.api.services import Services
from sdwebui_api.api.training_schema import MAX_VECTORS
from sdwebui_api.catalog.embeddings import list_embeddings
from sdwebui_api.config.paths import Paths
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.localization import t

WIDTHS = ("768", "1024", "320", "640", "1280")
ACTIVATIONS = ("linear", "relu", "leakyrelu", "elu", "swish", "tanh", "sigmoid")
WEIGHT_INITS = ("Normal", "KaimingUniform", "KaimingNormal", "XavierUniform", "XavierNormal")
TEMPLATES = (
    "style_filewords.txt", "style.txt", "subject_filewords.txt", "subject.txt", "hypernetwork.txt", "none.txt"
)  # fmt: skip
OF_TXT2IMG = {
    "preview_prompt": "txt2img_prompt",
    "preview_negative_prompt": "txt2img_neg_prompt",
    "preview_steps": "txt2img_steps",
    "preview_sampler_name": "txt2img_sampling",
    "preview_cfg_scale": "txt2img_cfg_scale",
    "preview_seed": "txt2img_seed",
    "preview_width": "txt2img_width",
    "preview_height": "txt2img_height",
}
"""Field of the preview → elem_id of the tab txt2img."""

Fields = dict[str, Component]


def embedding(page: PageBuilder) -> Fields:
    return {
        "name": page.add(gr.Textbox(label=t("Name"), elem_id="train_new_embedding_name")),
        "init_text": page.add(gr.Textbox("*", label=t("Initialization text"), elem_id="train_initialization_text")),
        "num_vectors_per_token": page.add(
            gr.Slider(1, MAX_VECTORS, 1, step=1, label=t("Number of vectors per token"), elem_id="train_nvpt")
        ),
        "overwrite_old": page.add(
            gr.Checkbox(label=t("Overwrite old embedding"), elem_id="train_overwrite_old_embedding")
        ),
    }


def hypernetwork(page: PageBuilder) -> Fields:
    with gr.Row(elem_classes=["compact"]):
        name = page.add(gr.Textbox(label=t("Name"), elem_id="train_new_hypernetwork_name"))
        structure = page.add(
            gr.Textbox("1, 2, 1", label=t("Layer structure"), elem_id="train_new_hypernetwork_layer_structure")
        )
    sizes = page.add(
        gr.CheckboxGroup(
            list(WIDTHS), value=["768", "320", "640", "1280"], label=t("Modules"),
            elem_id="train_new_hypernetwork_sizes",
        )
    )  # fmt: skip
    with gr.Row(elem_classes=["compact"]):
        activation = page.add(
            gr.Dropdown(
                list(ACTIVATIONS), value="linear", label=t("Activation function"), min_width=160,
                elem_id="train_new_hypernetwork_activation_func",
            )
        )  # fmt: skip
        weights = page.add(
            gr.Dropdown(
                list(WEIGHT_INITS), value="Normal", label=t("Weight initialization"), min_width=160,
                elem_id="train_new_hypernetwork_initialization_option",
            )
        )  # fmt: skip
    norm = page.add(gr.Checkbox(label=t("Layer normalization"), elem_id="train_new_hypernetwork_add_layer_norm"))
    with gr.Row(elem_classes=["compact"]):
        drop = page.add(
            gr.Checkbox(label=t("Use dropout"), min_width=160, elem_id="train_new_hypernetwork_use_dropout")
        )
        drops = page.add(
            gr.Textbox(
                label=t("Dropout structure"), placeholder="0, 0.3, 0", min_width=160,
                info=t("As many numbers as the layer structure has, the first of them 0"),
                elem_id="train_new_hypernetwork_dropout_structure",
            )
        )  # fmt: skip
    old = page.add(gr.Checkbox(label=t("Overwrite old hypernetwork"), elem_id="train_overwrite_old_hypernetwork"))
    return {
        "name": name, "layer_structure": structure, "enable_sizes": sizes, "activation_func": activation,
        "weight_init": weights, "add_layer_norm": norm, "use_dropout": drop, "dropout_structure": drops,
        "overwrite_old": old,
    }  # fmt: skip


def training(page: PageBuilder) -> Fields:
    """Of both trainings; `embedding_learn_rate`, `hypernetwork_learn_rate` and `save_every` are the page's names."""
    return {**_subject(page), **_pictures(page), **_learning(page), **_records(page)}


def embedding_names(services: Services) -> list[str]:
    """Those that can be taught further."""
    files = list_embeddings([Paths.from_flags(services.flags).embeddings_dir])
    return [file.name for file in files if file.path.suffix.lower() == ".pt"]


def hypernetwork_names(services: Services) -> list[str]:
    return [file.name for file in services.catalog.hypernetworks.all()]


def _subject(page: PageBuilder) -> Fields:
    fields: Fields = {}
    for kind, label, names, rate_label, rate in (
        ("embedding", t("Embedding"), embedding_names, t("Embedding learning rate"), "0.005"),
        ("hypernetwork", t("Hypernetwork"), hypernetwork_names, t("Hypernetwork learning rate"), "0.00001"),
    ):
        with gr.Row(elem_classes=["compact"]):
            fields[f"{kind}_name"] = page.add(
                gr.Dropdown(names(page.services), value=None, label=label, elem_id=f"train_{kind}", min_width=160),
                choices=names,
            )
            fields[f"{kind}_learn_rate"] = page.add(
                gr.Textbox(
                    rate, label=rate_label, placeholder="0.005:100, 0.001:1000, 0.0001", min_width=160,
                    elem_id=f"train_{kind}_learn_rate",
                ),
                saved=f"train/{'Embedding' if kind == 'embedding' else 'Hypernetwork'} Learning rate",
            )  # fmt: skip
    steps = page.add(
        gr.Number(100_000, precision=0, label=t("Max steps"), elem_id="train_steps"), saved="train/Max steps"
    )
    return {**fields, "steps": steps}


def _pictures(page: PageBuilder) -> Fields:
    folder = page.add(
        gr.Textbox(
            label=t("Folder of pictures"), info=t("Within the data directory"), elem_id="train_dataset_directory"
        ),
        saved="train/Dataset directory",
    )  # fmt: skip
    template = page.add(
        gr.Dropdown(
            list(TEMPLATES), value=TEMPLATES[0], allow_custom_value=True, label=t("Prompt template"),
            info=t("One prompt per line, with [name] and [filewords]"), elem_id="train_template_file",
        ),
        saved="train/Prompt template",
    )  # fmt: skip
    with gr.Row(elem_classes=["compact"]):
        wide = page.add(
            gr.Slider(64, 2048, 512, step=8, label=t("Width"), elem_id="train_training_width"), saved="train/Width"
        )
        high = page.add(
            gr.Slider(64, 2048, 512, step=8, label=t("Height"), elem_id="train_training_height"), saved="train/Height"
        )
    own = page.add(
        gr.Checkbox(label=t("Keep the size of every picture"), elem_id="train_varsize"),
        saved="train/Do not resize images",
    )
    return {"data_root": folder, "template_filename": template, "training_width": wide, "training_height": high,
            "varsize": own}  # fmt: skip


def _learning(page: PageBuilder) -> Fields:
    with gr.Accordion(t("Learning"), open=False, elem_id="train_learning"):
        with gr.Row(elem_classes=["compact"]):
            batch = page.add(
                gr.Number(1, precision=0, label=t("Batch size"), min_width=160, elem_id="train_batch_size"),
                saved="train/Batch size",
            )
            gradient = page.add(
                gr.Number(1, precision=0, label=t("Gradient accumulation steps"), min_width=160,
                          elem_id="train_gradient_step"),
                saved="train/Gradient accumulation steps",
            )  # fmt: skip
        with gr.Row(elem_classes=["compact"]):
            modes = [(t("disabled"), "disabled"), (t("value"), "value"), (t("norm"), "norm")]
            clip = page.add(
                gr.Dropdown(modes, value="disabled", label=t("Gradient clipping"), min_width=160,
                            elem_id="train_clip_grad_mode"),
                saved="train/Gradient Clipping",
            )  # fmt: skip
            clip_value = page.add(
                gr.Textbox("0.1", label=t("Clip value"), min_width=160, elem_id="train_clip_grad_value"),
                saved="train/Gradient clip value",
            )
        methods = [(t("once"), "once"), (t("deterministic"), "deterministic"), (t("random"), "random")]
        latent = page.add(
            gr.Radio(methods, value="once", label=t("Latent sampling"), elem_id="train_latent_sampling_method"),
            saved="train/Choose latent sampling method",
        )
        drop = page.add(
            gr.Slider(0, 1, 0, step=0.1, label=t("Drop out tags"), elem_id="train_tag_drop_out"),
            saved="train/Drop out tags when creating prompts.",
        )
        shuffle = page.add(
            gr.Checkbox(label=t("Shuffle tags"), elem_id="train_shuffle_tags"),
            saved="train/Shuffle tags by ',' when creating prompts.",
        )
        weight = page.add(
            gr.Checkbox(label=t("Use the PNG's alpha channel as loss weight"), elem_id="train_use_weight"),
            saved="train/Use PNG alpha channel as loss weight",
        )
    return {
        "batch_size": batch, "gradient_step": gradient, "clip_grad_mode": clip, "clip_grad_value": clip_value,
        "latent_sampling_method": latent, "tag_drop_out": drop, "shuffle_tags": shuffle, "use_weight": weight,
    }  # fmt: skip


def _records(page: PageBuilder) -> Fields:
    with gr.Accordion(t("Copies and previews"), open=False, elem_id="train_records"):
        log = page.add(
            gr.Textbox("textual_inversion", label=t("Log folder"), info=t("Below log/ in the data directory"),
                       elem_id="train_log_directory"),
                saved="train/Log directory",
        )  # fmt: skip
        with gr.Row(elem_classes=["compact"]):
            previews = page.add(
                gr.Number(500, precision=0, label=t("Preview every N steps"), info=t("0: never"), min_width=160,
                          elem_id="train_create_image_every"),
                saved="train/Save an image to log directory every N steps, 0 to disable",
            )  # fmt: skip
            copies = page.add(
                gr.Number(500, precision=0, label=t("Copy every N steps"), info=t("0: never"), min_width=160,
                          elem_id="train_save_embedding_every"),
                saved="train/Save a copy of embedding to log directory every N steps, 0 to disable",
            )  # fmt: skip
        inside = page.add(
            gr.Checkbox(True, label=t("Save previews of an embedding with the embedding in them"),
                        elem_id="train_save_image_with_stored_embedding"),
                saved="train/Save images with embedding in PNG chunks",
        )  # fmt: skip
        own = page.add(
            gr.Checkbox(
                label=t("Previews with prompt and settings of txt2img"), visible=_has_txt2img(page),
                info=t("Otherwise the prompt last learned from"), elem_id="train_preview_from_txt2img",
            )
        )  # fmt: skip
    fields: Fields = {
        "log_directory": log, "create_image_every": previews, "save_every": copies,
        "save_image_with_stored_embedding": inside, "preview_from_txt2img": own,
    }  # fmt: skip
    return fields | {name: page.components[id] for name, id in OF_TXT2IMG.items() if _has_txt2img(page)}


def _has_txt2img(page: PageBuilder) -> bool:
    """The tab may be hidden by a flag."""
    return all(id in page.components for id in OF_TXT2IMG.values())
