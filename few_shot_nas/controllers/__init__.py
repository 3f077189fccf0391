"""Policies that propose architectures."""

from few_shot_nas.controllers.enas import ENASController
from few_shot_nas.controllers.lstm import LSTMController

CONTROLLERS: dict[str, type[LSTMController] | type[ENASController]] = {
    "LSTM": LSTMController,
    "ENAS": ENASController,
}
