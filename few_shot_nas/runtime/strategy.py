"""Data-parallel training without the DistributedDataParallel wrapper.

The wrapper's backward hooks do not see ``torch.func`` gradients, crash when ranks sample different paths of a
supernet, and shrink the gradients of rarely sampled ops. Instead, ``runtime.gradients.average_gradients`` reduces once
per outer step; all that is left for the strategy is to start every rank from rank 0's weights.
"""

import signal
from datetime import timedelta
from typing import Any

from pytorch_lightning.overrides.distributed import _sync_module_states
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from torch.distributed import DistError

from few_shot_nas.errors import InputError
from few_shot_nas.runtime import ranks
from few_shot_nas.runtime.stop_signals import Stopped

NAME = "episodic_ddp"


class EpisodicDDPStrategy(DDPStrategy):
    """DDPStrategy whose module stays unwrapped; launchers, clusters and checkpoints work as in the parent.

    Args:
        rank_timeout: seconds that a rank waits for another one, before it names it and ends.
        kwargs: of the parent.
    """

    def __init__(self, rank_timeout: float = 1800.0, **kwargs: Any) -> None:
        timeout = timedelta(seconds=rank_timeout)
        super().__init__(timeout=timeout, **kwargs)
        ranks.set_timeout(timeout)

    def setup_distributed(self) -> None:
        """Meet the other ranks for the first time.

        Raises:
            InputError: if they have not all come in time.
        """
        try:
            super().setup_distributed()
        except DistError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"the processes of this run have not found each other: {reason}; see whether one has ended, and raise "
                "--rank_timeout where they are slow to start"
            ) from error

    def configure_ddp(self) -> None:
        """Copy rank 0's parameters and buffers to every rank, and wrap nothing."""
        if self.model is None:
            raise RuntimeError("configure_ddp() was called before the strategy was connected to a module")
        _sync_module_states(self.model)

    def on_exception(self, exception: BaseException) -> None:
        """End the processes that this one has started, unless all ranks have agreed to stop.

        What has stopped this rank alone would leave them waiting in a collective, where they obey no other signal.
        """
        super().on_exception(exception)
        agreed = isinstance(exception, Stopped) and exception.agreed
        if isinstance(self.launcher, _SubprocessScriptLauncher) and not agreed:
            self.launcher.kill(signal.SIGKILL)


if NAME not in StrategyRegistry:
    StrategyRegistry.register(NAME, EpisodicDDPStrategy, description="DDP for episodes: no wrapper, one all-reduce")
