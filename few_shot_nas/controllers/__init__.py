"""Policies that propose architectures."""

from few_shot_nas.controllers.lstm import LSTMController

CONTROLLERS: dict[str, type[LSTMController]] = {
    "LSTM": LSTMController,
}
