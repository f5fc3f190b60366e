"""The Silero VAD network, computed with numpy for a batch of windows. Sans-IO.

Four short-time spectra of a window, four convolutions over them, one step of an LSTM, and one
logistic unit. The weights are those of an ONNX file inside the `silero-vad` distribution; the
package is never imported, since it would import torch.

Why not onnxruntime: it computes the convolutions one window at a time, as products at most four
columns wide. As products over the whole batch they cost half (docs/performance.md).
`tests/test_silero.py` holds this module to what onnxruntime makes of the same file.
"""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from realtimed.errors import EngineStartError

Array = NDArray[np.float32]

WINDOW_SAMPLES: Final = 512
"""New samples of a window, at 16 kHz."""
CONTEXT_SAMPLES: Final = 64
"""Samples before the window that the network reads again."""
STATE_SIZE: Final = 128
"""Values of the LSTM's hidden state, and of its cell state."""

MODEL_FILE: Final = "silero_vad_16k_op15.onnx"
_INSTALL = "pip install 'realtimed[cuda]' on NVIDIA GPUs, `make venv` for the CPU"

_INPUT = CONTEXT_SAMPLES + WINDOW_SAMPLES
_FFT = 256
_HOP = 128
_REFLECTED = 64
_BINS = _FFT // 2 + 1
_FRAMES = 4
_TAPS = 3


class Silero:
    """The network. Not for two threads at once, and on one core: BLAS is held to one thread."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        """`weights`: the file's tensors by their names there."""
        # Row 0 of the Fourier basis, for frequency 0, is the window function itself.
        self._fft_window = weights["model.stft.forward_basis_buffer"][0, 0]
        convolution = [weights[f"model.encoder.{i}.reparam_conv.weight"] for i in range(4)]
        self._bias = [weights[f"model.encoder.{i}.reparam_conv.bias"] for i in range(4)]
        # With a stride of 2 over two steps, and over a single one, the first tap of the third
        # convolution and the outer taps of the fourth meet nothing but padding.
        taps = (slice(0, 3), slice(0, 3), slice(1, 3), slice(1, 2))
        self._kernel = [_as_matrix(k[:, :, t]) for k, t in zip(convolution, taps, strict=True)]
        both = [weights["model.decoder.rnn.weight_ih"], weights["model.decoder.rnn.weight_hh"]]
        gates = _cell_gate_last(np.concatenate(both, axis=1))
        self._gates = np.ascontiguousarray(gates.T)
        biases = weights["model.decoder.rnn.bias_ih"] + weights["model.decoder.rnn.bias_hh"]
        self._gates_bias = _cell_gate_last(biases)
        self._unit = weights["model.decoder.decoder.2.weight"][0, :, 0]
        self._unit_bias = weights["model.decoder.decoder.2.bias"]

    @classmethod
    def load(cls) -> "Silero":
        """Read the weights from the installed `silero-vad` distribution.

        Raises: `EngineStartError` if it, onnx or threadpoolctl is not installed.
        """
        try:
            import onnx
            from onnx.numpy_helper import to_array
            from threadpoolctl import threadpool_limits
        except ModuleNotFoundError as error:
            raise EngineStartError(f"{error.name} is not installed: {_INSTALL}.") from None
        # More threads would wait for each other, and take the cores of the engine.
        threadpool_limits(limits=1, user_api="blas")
        graph: Any = onnx.load(str(model_path())).graph
        return cls({tensor.name: to_array(tensor) for tensor in graph.initializer})

    def probabilities(self, samples: Array, state: Array) -> Array:
        """How likely each window is speech.

        `samples`: float32 of shape (batch, 64 + 512), each window behind its context, in [-1, 1].
        `state`: float32 of shape (2, batch, 128), hidden and cell; updated in place.

        Returns: float32 of shape (batch,), in [0, 1].
        """
        hidden, cell = state
        inputs = np.empty((len(samples), 2 * STATE_SIZE), np.float32)
        inputs[:, :STATE_SIZE] = self._features(samples)
        inputs[:, STATE_SIZE:] = hidden
        gates = inputs @ self._gates
        gates += self._gates_bias
        into, forget, out = np.split(_logistic(gates[:, : 3 * STATE_SIZE]), 3, axis=1)
        cell *= forget
        cell += into * np.tanh(gates[:, 3 * STATE_SIZE :])
        np.multiply(out, np.tanh(cell), out=hidden)
        return _logistic(np.maximum(hidden, 0) @ self._unit + self._unit_bias)

    def _features(self, samples: Array) -> Array:
        """What the LSTM hears, float32 of shape (batch, 128)."""
        batch = len(samples)
        # Every convolution sees one step of zeros before its input, and one behind.
        spectra = np.zeros((batch, 1 + _FRAMES + 1, _BINS), np.float32)
        np.abs(np.fft.rfft(self._fft_frames(samples)), out=spectra[:, 1:-1])
        first = np.zeros((batch, 1 + _FRAMES, 128), np.float32)
        steps = self._convolve(0, _steps(spectra, _FRAMES, stride=1))
        first[:, 1:] = steps.reshape(batch, _FRAMES, 128)
        second = self._convolve(1, _steps(first, 2, stride=2))
        third = self._convolve(2, second.reshape(batch, 2 * 64))
        return self._convolve(3, third)

    def _fft_frames(self, samples: Array) -> Array:
        """Overlapping frames times the window function, float32 of shape (batch, 4, 256)."""
        padded = np.empty((len(samples), _INPUT + _REFLECTED), np.float32)
        padded[:, :_INPUT] = samples
        padded[:, _INPUT:] = samples[:, -2 : -2 - _REFLECTED : -1]
        row, sample = padded.strides
        shape = (len(samples), _FRAMES, _FFT)
        frames: Array = as_strided(padded, shape, (row, _HOP * sample, sample)) * self._fft_window
        return frames

    def _convolve(self, number: int, inputs: Array) -> Array:
        """A convolution and its rectifier; `inputs` has the taps of one output step a row."""
        outputs: Array = inputs @ self._kernel[number]
        outputs += self._bias[number]
        np.maximum(outputs, 0, out=outputs)
        return outputs


def model_path() -> Path:
    """Where the installed `silero-vad` distribution keeps the weights.

    Raises: `EngineStartError` if it is not installed, or without the file.
    """
    try:
        listed = files("silero-vad") or []
    except PackageNotFoundError:
        raise EngineStartError(f"silero-vad is not installed: {_INSTALL}.") from None
    for file in listed:
        if file.name == MODEL_FILE and (path := Path(str(file.locate()))).is_file():
            return path
    raise EngineStartError(f"silero-vad is installed without {MODEL_FILE}: {_INSTALL}.")


def _as_matrix(kernel: Array) -> Array:
    """(out, in, taps) as (taps * in, out), for inputs that lie step after step."""
    return np.ascontiguousarray(kernel.transpose(2, 1, 0).reshape(-1, len(kernel)))


def _cell_gate_last(gates: Array) -> Array:
    """PyTorch's order of gates is in, forget, cell, out; here those of one function go together."""
    into, forget, cell, out = np.split(gates, 4)
    return np.concatenate((into, forget, out, cell))


def _steps(inputs: Array, count: int, stride: int) -> Array:
    """The taps of `count` output steps a batch row, as rows; `inputs`: (batch, steps, channels)."""
    batch, _, channels = inputs.shape
    row, step, value = inputs.strides
    shape = (batch, count, _TAPS * channels)
    return as_strided(inputs, shape, (row, stride * step, value)).reshape(batch * count, -1)


def _logistic(values: Array) -> Array:
    """1 / (1 + exp(-x)), by way of tanh, which never overflows; in place."""
    values *= 0.5
    np.tanh(values, out=values)
    values *= 0.5
    values += 0.5
    return values
