"""Data-parallel training without the DistributedDataParallel wrapper.

The wrapper's backward hooks do not see ``torch.func`` gradients, crash when ranks sample different paths of a
supernet, and shrink the gradients of rarely sampled ops. Instead, ``runtime.gradients.average_gradients`` reduces once
per outer step; all that is left for the strategy is to start every rank from rank 0's weights.
"""

from pytorch_lightning.overrides.distributed import _sync_module_states
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry

NAME = "episodic_ddp"


class EpisodicDDPStrategy(DDPStrategy):
    """DDPStrategy whose module stays unwrapped; launchers, clusters and checkpoints work as in the parent."""

    def configure_ddp(self) -> None:
        """Copy rank 0's parameters and buffers to every rank, and wrap nothing."""
        if self.model is None:
            raise RuntimeError("configure_ddp() was called before the strategy was connected to a module")
        _sync_module_states(self.model)


if NAME not in StrategyRegistry:
    StrategyRegistry.register(NAME, EpisodicDDPStrategy, description="DDP for episodes: no wrapper, one all-reduce")
