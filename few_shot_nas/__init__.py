"""few_shot_nas: neural architecture search for few-shot learning on PyTorch Lightning."""

__version__ = "0.1.0"
