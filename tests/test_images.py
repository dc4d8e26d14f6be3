# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import Padding, beside, contact_sheet, load_image, resize, save_image, to_float, to_uint8


def test_bytes_and_floats_round_trip():
    image = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(image)), image)
    assert to_float(image).max() == 1
    assert to_uint8(torch.tensor([-1.0, 2.0])).tolist() == [0, 255]
    with pytest.raises(ValueError, match="float32"):
        to_float(torch.zeros(3))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (13, 17), (16, 16), (15, 33)])
@pytest.mark.parametrize("multiple", [1, 8, 16])
def test_padding_reaches_the_multiple_and_can_be_undone(height, width, multiple):
    image = torch.rand(2, 3, height, width)
    padding = Padding.to_multiple(height, width, multiple)
    padded = padding.apply(image)
    assert padded.shape[-2] % multiple == padded.shape[-1] % multiple == 0
    assert padded.shape[-2] - height < multiple
    assert torch.equal(padding.undo(padded), image)
    assert torch.equal(padded[..., -1, -1], image[..., -1, -1])


def test_padding_keeps_leading_dimensions():
    assert Padding(right=3, bottom=1).apply(torch.rand(5, 6)).shape == (6, 9)
    assert Padding(right=3, bottom=1).apply(torch.rand(2, 4, 3, 5, 6)).shape == (2, 4, 3, 6, 9)


def test_impossible_paddings_are_refused():
    with pytest.raises(ValueError, match="multiples of 0"):
        Padding.to_multiple(4, 4, 0)


def test_files_round_trip(tmp_path):
    image = to_float(torch.randint(0, 256, (3, 7, 9), dtype=torch.uint8))
    save_image(tmp_path / "new" / "image.png", image)
    assert torch.equal(load_image(tmp_path / "new" / "image.png"), image)


def test_grey_and_transparent_files_become_rgb(tmp_path):
    from PIL import Image

    Image.new("L", (5, 4), 51).save(tmp_path / "grey.png")
    Image.new("RGBA", (5, 4), (255, 0, 51, 9)).save(tmp_path / "clear.png")
    assert torch.allclose(load_image(tmp_path / "grey.png"), torch.full((3, 4, 5), 0.2))
    assert torch.allclose(load_image(tmp_path / "clear.png")[:, 0, 0], torch.tensor([1.0, 0.0, 0.2]))


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.png"):
        load_image(tmp_path / "nothing.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"text\.png as an image"):
        load_image(tmp_path / "text.png")
    save_image(tmp_path / "whole.png", torch.rand(3, 50, 50))
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    with pytest.raises(InputError, match=r"half\.png as an image"):
        load_image(tmp_path / "half.png")


def test_save_refuses_other_shapes(tmp_path):
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 4\)"):
        save_image(tmp_path / "x.png", torch.zeros(1, 3, 4, 4))


def test_pictures_beside_each_other_are_as_high_as_the_first():
    image, mask = torch.rand(3, 4, 6), torch.rand(1, 8, 12)
    row = beside([image, mask, image], gap=2)
    assert row.shape == (3, 4, 3 * 6 + 2 * 2)
    assert torch.equal(row[..., :6], image)
    assert torch.equal(row[..., -6:], image)
    assert torch.equal(row[0, :, 8:14], row[2, :, 8:14])
    assert (row[..., 6:8] == 1).all()


def test_a_sheet_holds_rows_of_any_length_on_white():
    image = torch.rand(3, 4, 6)
    sheet = contact_sheet([[image], [image, image]], gap=1)
    assert sheet.shape == (3, 10, 13)
    assert (sheet[:, :4, 6:] == 1).all()
    assert torch.equal(sheet[:, 5:9, 7:], image)


def test_resize_keeps_constants_and_means():
    image = torch.rand(1, 3, 32, 48)
    small = resize(image, 8, 12)
    assert small.shape == (1, 3, 8, 12)
    assert small.mean().item() == pytest.approx(image.mean().item(), abs=0.02)
    assert torch.allclose(resize(torch.full((1, 3, 5, 7), 0.3), 11, 3), torch.tensor(0.3))
    assert resize(image, 32, 48) is image
    with pytest.raises(ValueError, match="0x5"):
        resize(image, 5, 0)
