"""Opening a file and running it on waveforms."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime

from ._library import ops_library

_FRAME_S = 0.025
_SHIFT_S = 0.010


class ModelError(ValueError):
    """A file that cannot be used here; the message says why and what to do."""


@dataclass(frozen=True)
class Result:
    """What a model says of one clip, or of a batch of clips."""

    logits: npt.NDArray[np.float32]
    """Before softmax or sigmoid, ``[n_classes]``, or ``[batch, n_classes]`` for a batch."""
    scores: npt.NDArray[np.float32]
    """Between 0 and 1, of the same shape."""
    labels: tuple[str, ...]
    """One a class."""

    def top(self, count: int = 1) -> list[tuple[str, float]]:
        """The labels with the highest scores of one clip, highest first.

        Raises:
            ValueError: The result is of a batch, or of a model with one row of scores a second.
        """
        if self.scores.ndim != 1:
            raise ValueError(f"scores of shape {self.scores.shape} have no single order: take one row")
        order = np.argsort(-self.scores, kind="stable")[:count]
        return [(self.labels[index], float(self.scores[index])) for index in order]


@dataclass(frozen=True)
class SelfTest:
    """Whether this machine computes what the file says that it should."""

    holds: bool
    """Every value is within the tolerance that the file names."""
    max_abs_error: float
    """Infinite where a value is missing or is not a number."""

    def __bool__(self) -> bool:
        return self.holds


class Model:
    """A file that takes waveforms, open in ONNX Runtime on the CPU."""

    labels: tuple[str, ...]
    """One a class, in the order of the scores."""
    sample_rate: int
    """Hz, of the waveforms that the model takes."""
    window: int
    """Samples that fill the model: more are cut, fewer are filled up with silence."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        use_ops_library: bool = True,
    ) -> None:
        """Opens a file, see :func:`load`."""
        self._path = os.fspath(path)
        if not os.path.isfile(self._path):
            raise FileNotFoundError(f"no model `{self._path}`")
        if threads is not None and threads < 1:
            raise ValueError(f"{threads} threads asked for, expected at least 1")
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        if use_ops_library:
            options.register_custom_ops_library(ops_library())
        try:
            self._session = onnxruntime.InferenceSession(
                self._path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has no class of its own for them
            raise ModelError(f"cannot open `{self._path}` in ONNX Runtime: {error}") from error
        self._read_card(self._session.get_modelmeta().custom_metadata_map)

    def _read_card(self, card: dict[str, str]) -> None:
        version = card.get("ssamba.card")
        if version is None:
            raise ModelError(f"`{self._path}` was not written by `ssamba-edge export`")
        if version != "1":
            raise ModelError(
                f"`{self._path}` has a card of version {version}, expected 1: use the ssamba-edge that wrote it"
            )
        if card.get("ssamba.input", "fbank") != "waveform":
            raise ModelError(
                f"`{self._path}` takes filter banks, not a waveform: "
                "export it again with `ssamba-edge export --frontend waveform`"
            )
        outputs = [output.name for output in self._session.get_outputs()]
        if "scores" not in outputs:
            raise ModelError(f"`{self._path}` has no classifier: it puts out {', '.join(outputs)}")
        try:
            labels: list[str] = json.loads(card["ssamba.labels"])
            self.sample_rate = int(card["ssamba.sample_rate"])
            frames = int(card["ssamba.n_frames"])
        except (KeyError, ValueError) as error:
            raise ModelError(f"the card of `{self._path}` cannot be read: {error}") from error
        self._batch = int(card.get("ssamba.batch", "1"))
        self._self_test = card.get("ssamba.self_test")
        classes = self._session.get_outputs()[outputs.index("scores")].shape[-1]
        self.labels = tuple(labels or (str(index) for index in range(classes)))
        self.window = round(self.sample_rate * (_FRAME_S + (frames - 1) * _SHIFT_S))

    def run(self, waveform: npt.ArrayLike, *, sample_rate: int | None = None) -> Result:
        """Scores of a clip ``[samples]``, or of a batch of clips of one length ``[batch, samples]``.

        Args:
            waveform: Mono. Floating point from -1 to 1, or 16-bit integers, which are scaled.
            sample_rate: Hz of the waveform, to have it checked; without it, the model's is assumed.

        Raises:
            ValueError: The waveform has the wrong rate or shape, is shorter than a frame, or holds a
                value that is not finite.
        """
        if sample_rate is not None and sample_rate != self.sample_rate:
            raise ValueError(
                f"the waveform has {sample_rate} Hz, and the model takes {self.sample_rate}: resample it"
            )
        clips = _clips(waveform)
        frame = round(_FRAME_S * self.sample_rate)
        if clips.shape[-1] < frame:
            raise ValueError(
                f"the waveform has {clips.shape[-1]} samples, and one frame takes {frame}: append silence"
            )
        batch = np.atleast_2d(clips)
        logits, scores = self._session.run(["logits", "scores"], {"waveform": batch})
        if clips.ndim == 1:
            logits, scores = logits[0], scores[0]
        return Result(logits, scores, self.labels)

    def selftest(self) -> SelfTest:
        """Runs the test that rides in the file, as ``ssamba-edge run --selftest`` does.

        Raises:
            ModelError: The file was exported with ``--no-selftest``.
        """
        if self._self_test is None:
            raise ModelError(f"there is no self-test in `{self._path}`: export it without --no-selftest")
        test = json.loads(self._self_test)
        shape = (self._batch, self.window)
        waveform = _test_samples(self._batch * self.window).reshape(shape)
        (output,) = self._session.run([test["output"]], {"waveform": waveform})
        expected = np.asarray(test["values"], np.float32)
        got = np.asarray(output, np.float32).ravel()[: expected.size]
        error = float("inf")
        if got.size == expected.size and np.isfinite(got).all():
            error = float(np.abs(got - expected).max(initial=0.0))
        return SelfTest(error <= test["atol"], error)

    def __repr__(self) -> str:
        return f"<ssamba_edge.Model {self._path!r}: {len(self.labels)} labels, {self.sample_rate} Hz>"


def _test_samples(count: int) -> npt.NDArray[np.float32]:
    """The noise that self-tests are run on, exact in single precision: see crates/contract/src/self_test.rs."""
    states = np.empty(count, np.int64)
    state = 1
    for index in range(count):
        state = (1_664_525 * state + 1_013_904_223) % 2**32
        states[index] = state
    loudness = 1 + (np.arange(count) >> 8) % 16
    return (((states >> 16) - 32_768) * loudness / 524_288).astype(np.float32)


def _clips(waveform: npt.ArrayLike) -> npt.NDArray[np.float32]:
    given = np.asarray(waveform)
    if given.dtype == np.int16:
        clips = given.astype(np.float32) / np.float32(32768)
    elif np.issubdtype(given.dtype, np.floating):
        clips = np.ascontiguousarray(given, dtype=np.float32)
    else:
        raise ValueError(
            f"a waveform of type {given.dtype}, expected floating point from -1 to 1, or int16"
        )
    if clips.ndim not in (1, 2):
        raise ValueError(
            f"a waveform of shape {clips.shape}, expected [samples] or [batch, samples]: mix channels to mono"
        )
    if clips.shape[0] == 0:
        raise ValueError("the waveform is empty")
    if not np.isfinite(clips).all():
        raise ValueError("the waveform holds values that are not finite")
    return clips


def load(
    model: str | os.PathLike[str],
    *,
    threads: int | None = None,
    use_ops_library: bool = True,
) -> Model:
    """Opens a file that ``ssamba-edge export --frontend waveform`` wrote.

    Args:
        model: Path of the file.
        threads: Threads that compute one node; ``None``: what ONNX Runtime chooses.
        use_ops_library: Whether our kernels run the recurrences, or the slower function bodies that the
            file carries.

    Raises:
        FileNotFoundError: There is no such file.
        ModelError: The file cannot be used: not one of ours, or one that takes filter banks.
    """
    return Model(model, threads=threads, use_ops_library=use_ops_library)
