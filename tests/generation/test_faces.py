"""`restore_faces` in generation: with a restorer that is known, and where files are missing."""

from __future__ import annotations

from PIL import Image

from sdwebui_api.config.options import Options
from sdwebui_api.errors import BadRequest

GREEN = (0, 128, 0)


class Painter:
    """Paints pictures green."""

    def __init__(self) -> None:
        self.asked: list[tuple] = []

    def for_job(self, job):
        return self

    def restorer(self, name, field=None):
        if name not in ("CodeFormer", "GFPGAN"):
            raise BadRequest(f"face restorer {name!r} not found")

        def restore(image, weight):
            self.asked.append((name, weight))
            return Image.new("RGB", image.size, GREEN)

        return restore


def test_faces_are_restored(studio, monkeypatch):
    painter = Painter()
    monkeypatch.setattr(studio.services.generator, "_faces", painter)
    options = Options({"code_former_weight": 0.25, "save_images_before_face_restoration": True})
    result = studio.txt2img(options, restore_faces=True, save_images=True, n_iter=2)
    assert painter.asked == [("CodeFormer", 0.25)] * 2
    samples = [picture for picture in result.images if picture.role == "sample"]
    assert all(picture.image.getpixel((20, 20)) == GREEN for picture in samples)
    assert all("Face restoration: CodeFormer" in picture.infotext for picture in samples)
    assert result.info["restore_faces"] is True and result.info["face_restoration_model"] == "CodeFormer"
    assert result.info["warnings"] == []
    assert sum("-before-face-restoration" in name for name in studio.files()) == 2


def test_the_setting_asks_too_and_names_the_model(studio, monkeypatch):
    painter = Painter()
    monkeypatch.setattr(studio.services.generator, "_faces", painter)
    result = studio.txt2img(Options({"face_restoration": True, "face_restoration_model": "GFPGAN"}))
    assert painter.asked == [("GFPGAN", 0.5)] and "Face restoration: GFPGAN" in result.images[0].infotext
    studio.txt2img(Options({"face_restoration": True}), restore_faces=False)
    assert len(painter.asked) == 1


def test_missing_files_are_a_warning_that_names_the_folder(studio):
    plain = studio.txt2img().images[0].image.tobytes()
    result = studio.txt2img(restore_faces=True)
    assert result.images[0].image.tobytes() == plain
    assert "Face restoration" not in result.images[0].infotext and result.info["restore_faces"] is False
    warnings = [text for text in result.info["warnings"] if "restore_faces" in text]
    assert len(warnings) == 1 and "Codeformer" in warnings[0] and "facedetection" in warnings[0]
