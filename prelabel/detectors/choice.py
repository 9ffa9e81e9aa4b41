"""How a network is run: as it was loaded, as one constant graph, or in part in numbers of half the size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What the processor calls its instructions for bfloat16; without them it is emulated, which is slower than float32.
_BFLOAT16_FLAGS = frozenset(("avx512_bf16", "amx_bf16", "bf16"))

#: The first GPUs with tensor cores for float16.
_FLOAT16_GPU = (7, 0)


@dataclass(frozen=True, slots=True)
class Choice:
    """One way of running a network.

    Attributes:
        numbers: `"off"` (as loaded), `"exact"` (one constant graph), `"bfloat16"` or `"float16"` (one constant graph
            whose largest convolutions compute in that type).
        share: Of the convolutions' work, so much is done in that type; 1 where there is none.
    """

    numbers: str = "off"
    share: float = 1.0

    @property
    def lowers(self) -> bool:
        """Whether part of it is computed in fewer digits."""
        return self.numbers not in ("off", "exact")

    def __str__(self) -> str:
        return f"{self.numbers} in {self.share:.0%} of the convolutions' work" if self.lowers else self.numbers


OFF, EXACT = Choice("off"), Choice("exact")


def lower_numbers(tf: Any, cpu_flags: frozenset[str] | None = None) -> str | None:
    """The type of half the size that this process computes faster than float32, or None.

    What the processor can, TensorFlow may have been told not to use: one convolution is tried.

    Args:
        tf: TensorFlow, configured: a visible GPU counts, and then the processor does not.
        cpu_flags: Of the processor; looked up where None.
    """
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        able = all((one.get("compute_capability") or (0, 0)) >= _FLOAT16_GPU for one in details)
        return "float16" if able else None
    flags = processor_flags() if cpu_flags is None else cpu_flags
    return "bfloat16" if flags & _BFLOAT16_FLAGS and _convolves(tf.bfloat16, tf) else None


def _convolves(numbers: Any, tf: Any) -> bool:
    try:
        tf.nn.conv2d(tf.ones([1, 8, 8, 8], numbers), tf.ones([3, 3, 8, 8], numbers), 1, "SAME")
    except tf.errors.OpError:
        return False
    return True


def processor_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What the first processor says it can do; nothing where the system does not tell."""
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, values = line.partition(":")
                if name.strip() in ("flags", "Features"):
                    return frozenset(values.split())
    except OSError:
        pass
    return frozenset()
