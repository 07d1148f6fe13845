"""Videos: frames at their times, upright and of the wanted size; errors name the file."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from helpers.odd_files import NOISE, PEAK, STEP, VIDEOS, noise_image, saved, sound_only, video
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from smart_rag.errors import DocumentError, InvalidInput, MissingExtra
from smart_rag.files.formats.video import SUFFIXES, Frames, middle_frame, read_frames

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
ONE = 1 << 16


def numbers(frames: Frames) -> list[int]:
    """Return the numbers of frames of `video`, by their brightness."""
    return [round(np.asarray(image).mean() / STEP) for image in frames.images]


def outcome(path):
    """Return the frames, or the error of the only allowed class."""
    try:
        return read_frames(path, 5, 4, 500)
    except DocumentError as error:
        return error


def refused(path) -> str:
    """Return the reason why `read_frames` refuses ``path``. The error must name the file and have one line."""
    with pytest.raises(DocumentError) as caught:
        read_frames(path, 1, 10)
    assert caught.value.path == path
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert "\n" not in caught.value.reason
    return caught.value.reason


# --- which frames ---------------------------------------------------------------------------


def test_every_format_is_tested():
    assert {name[name.index(".") :] for name, _ in VIDEOS} == set(SUFFIXES)


@pytest.mark.parametrize(("name", "codec"), VIDEOS)
def test_frames_are_taken_at_their_times(tmp_path, name, codec):
    frames = read_frames(video(tmp_path / name, codec), 5, 100)
    assert numbers(frames) == [0, 5, 11, 16, 22, 27, 33, 38, 44, 49]
    assert frames.times == pytest.approx([number / 25 for number in numbers(frames)], abs=0.001)
    assert frames.duration == pytest.approx(2, abs=0.001)
    assert {(image.mode, image.size) for image in frames.images} == {("RGB", (64, 48))}


@pytest.mark.parametrize(("name", "codec"), VIDEOS)
@pytest.mark.parametrize("most", [1, 2, 3, 7, 49])
def test_too_many_frames_are_spread_evenly_over_all(tmp_path, name, codec, most):
    frames = read_frames(video(tmp_path / name, codec), 25, most)
    expected = [round(i * 49 / (most - 1)) if most > 1 else 0 for i in range(most)]
    assert numbers(frames) == pytest.approx(expected, abs=1)  # where the half falls is nobody's concern
    assert [round(time * 25) for time in frames.times] == numbers(frames)
    assert len(set(numbers(frames))) == most


@pytest.mark.parametrize(
    ("fps", "most", "expected"),
    [
        (1, 10, [0, 49]),
        (0.5, 10, [0]),
        (0.001, 10, [0]),
        (1.5, 10, [0, 24, 49]),
        (25, 50, list(range(50))),
        (1000, 1000, list(range(50))),
        (1e12, 1000, list(range(50))),
        (24, 48, [round(i * 49 / 47) for i in range(48)]),
    ],
)
def test_frames_of_a_second(tmp_path, fps, most, expected):
    frames = read_frames(video(tmp_path / "a.mp4"), fps, most)
    assert numbers(frames) == expected
    assert frames.times == pytest.approx([number / 25 for number in expected])


def test_the_fewest_frames(tmp_path):
    path = video(tmp_path / "a.mp4")
    assert numbers(read_frames(path, 0.5, 10, min_frames=4)) == [0, 16, 33, 49]
    assert numbers(read_frames(path, 0.5, 100, min_frames=60)) == list(range(50))


def test_an_even_number_of_frames(tmp_path):
    """The nearest even number, as round() of Python: 2 seconds at 3.5 frames have 7.0 frames, and half of 7 is 3.5."""
    path = video(tmp_path / "a.mp4")
    counts = [
        len(read_frames(path, fps, most, even=True).images) for fps, most in [(3.5, 9), (3.3, 9), (2.5, 9), (9, 7)]
    ]
    assert counts == [8, 6, 4, 6]
    assert len(read_frames(video(tmp_path / "b.mp4", frames=1), 2, 8, even=True).images) == 1


def test_the_middle_frame(tmp_path):
    for name, codec in VIDEOS:
        image = middle_frame(video(tmp_path / name, codec), 500)
        assert round(np.asarray(image).mean() / STEP) == 25
        assert image.width * image.height <= 500


def test_a_video_of_one_frame(tmp_path):
    for name, codec in VIDEOS:
        frames = read_frames(video(tmp_path / name, codec, frames=1), 2, 8)
        assert numbers(frames) == [0]
        assert frames.times == (0.0,)
        assert frames.duration == pytest.approx(0.04, abs=0.001)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_frames_of_uneven_length(tmp_path, name):
    times = [0, 100, 1000, 1100, 1200, 2000, 3900, 4000]
    path = video(tmp_path / name, frames=8, times=times)
    frames = read_frames(path, 1, 8)
    assert numbers(frames) == [0, 2, 5, 7]
    assert frames.times == pytest.approx([times[i] / 1000 for i in numbers(frames)], abs=0.002)
    assert numbers(read_frames(path, 100, 3)) == [0, 4, 7]


def test_a_video_that_starts_late_starts_at_0(tmp_path):
    path = video(tmp_path / "a.mkv", frames=10, times=[5000 + 100 * i for i in range(10)])
    frames = read_frames(path, 6, 10)
    assert frames.times == pytest.approx([0, 0.2, 0.4, 0.7, 0.9], abs=0.001)
    assert frames.duration == pytest.approx(1, abs=0.1)


def test_a_video_whose_frames_state_no_duration(tmp_path):
    """Browsers record such videos."""
    path = video(tmp_path / "a.webm", "libvpx", frames=10)
    default_duration, unknown = b"\x23\xe3\x83", b"\x23\xe3\x84"  # names of Matroska's elements
    assert path.read_bytes().count(default_duration) == 1
    path.write_bytes(path.read_bytes().replace(default_duration, unknown))
    frames = read_frames(path, 5, 10)
    assert numbers(frames) == [0, 9]
    assert frames.duration == pytest.approx(0.4)


def test_a_video_in_fragments(tmp_path):
    path = video(tmp_path / "a.mp4", movflags="frag_keyframe+empty_moov", g="5")
    assert numbers(read_frames(path, 5, 100)) == [0, 5, 11, 16, 22, 27, 33, 38, 44, 49]


# --- images --------------------------------------------------------------------------------


def four_corners():
    pixels = np.zeros((64, 96, 3), dtype=np.uint8)
    pixels[:32, :48], pixels[:32, 48:], pixels[32:, :48], pixels[32:, 48:] = RED, GREEN, BLUE, YELLOW
    return pixels


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        # (a, b, c, d) of QuickTime's matrix: x' = ax + cy, y' = bx + dy, with y downwards.
        ((1, 0, 0, 1), [RED, GREEN, BLUE, YELLOW]),
        ((0, 1, -1, 0), [BLUE, RED, YELLOW, GREEN]),  # clockwise
        ((-1, 0, 0, -1), [YELLOW, BLUE, GREEN, RED]),
        ((0, -1, 1, 0), [GREEN, YELLOW, RED, BLUE]),  # counter-clockwise
    ],
)
def test_a_video_is_upright(tmp_path, matrix, expected):
    a, b, c, d = (ONE * value for value in matrix)
    path = video(
        tmp_path / "a.mp4", frames=3, size=(96, 64), picture=four_corners(), matrix=(a, b, 0, c, d, 0, 0, 0, 1 << 30)
    )
    (image,) = read_frames(path, 1, 1).images
    assert image.size == ((96, 64) if b == 0 else (64, 96))
    right, bottom = image.width - 9, image.height - 9
    places = ((8, 8), (right, 8), (8, bottom), (right, bottom))
    assert [tuple(255 * (value > 127) for value in image.getpixel(place)) for place in places] == expected


@pytest.mark.parametrize(
    ("max_pixels", "size"), [(1000, (36, 27)), (64 * 48, (64, 48)), (10**6, (64, 48)), (1, (1, 1))]
)
def test_frames_are_shrunk_and_never_enlarged(tmp_path, max_pixels, size):
    frames = read_frames(video(tmp_path / "a.mp4"), 5, 4, max_pixels)
    assert {image.size for image in frames.images} == {size}
    assert numbers(frames) == [0, 16, 33, 49]


# --- errors ---------------------------------------------------------------------------------


def test_other_files_are_refused(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    assert refused(tmp_path / "folder.mp4") == "cannot be read (Is a directory)"
    assert refused(tmp_path / "gone.mp4") == "cannot be read (No such file or directory)"
    assert refused(sound_only(tmp_path / "song.mp4")) == "no video in it"
    assert refused(sound_only(tmp_path / "album.mp4", cover=True)) == "no video in it"
    for data in (NOISE, b"words", saved(noise_image("RGB", (8, 8)), "PNG")):
        (tmp_path / "a.mp4").write_bytes(data)
        assert refused(tmp_path / "a.mp4").startswith("damaged, or not a video (")
    (tmp_path / "a.mp4").write_bytes(b"")
    assert refused(tmp_path / "a.mp4") == "the file is empty"


def test_a_list_of_other_files_is_refused(tmp_path):
    """FFmpeg would open what the list names."""
    video(tmp_path / "a.mp4")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
    (tmp_path / "list.mkv").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\na.mp4\n#EXT-X-ENDLIST\n")
    assert refused(tmp_path / "list.mp4").startswith("damaged, or not a video")
    assert refused(tmp_path / "list.mkv").startswith("damaged, or not a video")


def test_a_name_may_have_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video(tmp_path / "a.mp4").rename(tmp_path / "concat:a.mp4")
    assert numbers(read_frames("concat:a.mp4", 1, 10)) == [0, 49]


@pytest.mark.parametrize("part", [0.3, 0.5, 0.7, 0.9])
def test_a_truncated_mp4_is_refused(tmp_path, part):
    """If the list of frames is at the end, the file cannot be opened. If it is at the start, frames are missing."""
    for options, reason in (({}, "damaged, or not a video"), ({"movflags": "faststart"}, "truncated: ")):
        path = video(tmp_path / "a.mp4", frames=250, **options)
        data = path.read_bytes()
        start = data.index(b"mdat")
        path.write_bytes(data[: start + int((len(data) - start) * part)])
        assert refused(path).startswith(reason)


@pytest.mark.parametrize(("name", "codec"), VIDEOS)
def test_a_truncated_video_is_read_as_far_as_it_goes_or_refused(tmp_path, name, codec):
    path = video(tmp_path / name, codec)
    data = path.read_bytes()
    for i in range(20):
        path.write_bytes(data[: len(data) * i // 20])
        result = outcome(path)
        if isinstance(result, DocumentError):
            assert "\n" not in result.reason
        else:
            assert 1 <= len(result.images) == len(result.times) <= 4


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The bytes of a short video of each format."""
    folder = tmp_path_factory.mktemp("sound")
    return [video(folder / name, codec, frames=12).read_bytes() for name, codec in VIDEOS]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=6))
def test_flipped_bytes_raise_no_other_error(tmp_path, sound, data, flips):
    changed = bytearray(data.draw(st.sampled_from(sound)))
    for place, flip in flips:
        changed[int(place * len(changed))] ^= flip
    (tmp_path / "a.mp4").write_bytes(changed)
    result = outcome(tmp_path / "a.mp4")
    if isinstance(result, DocumentError):
        assert "\n" not in result.reason
    else:
        assert 1 <= len(result.images) == len(result.times) <= 4
        assert all(isinstance(image, Image.Image) for image in result.images)


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, "2", None])
def test_a_wrong_rate_is_refused(tmp_path, wrong):
    with pytest.raises(InvalidInput, match="fps must be a number above 0"):
        read_frames(tmp_path / "a.mp4", wrong, 1)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True])
def test_a_wrong_number_is_refused(tmp_path, wrong):
    with pytest.raises(InvalidInput, match="max_frames"):
        read_frames(tmp_path / "a.mp4", 1, wrong)
    with pytest.raises(InvalidInput, match="max_pixels"):
        read_frames(tmp_path / "a.mp4", 1, 1, wrong)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = video(tmp_path / "a.mp4", frames=1)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"reading a.mp4 needs the package 'av'.*smart-rag\[video\]"):
        read_frames(path, 1, 1)


# --- memory ---------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_long_video_takes_no_more_memory_than_a_short_one(tmp_path):
    """300 frames have 1.5 MB each; four small ones stay in memory."""
    short = video(tmp_path / "short.mp4", frames=30, size=(960, 544), preset="ultrafast")
    long = video(tmp_path / "long.mp4", frames=300, size=(960, 544), preset="ultrafast")
    code = f"""{PEAK}
from smart_rag.files.formats.video import read_frames
for path in ({str(short)!r}, {str(long)!r}):
    assert len(read_frames(path, 100, 4, 10_000).images) == 4
    print(peak())
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    early, late = map(int, output.split())
    assert late - early < 60_000  # kB
