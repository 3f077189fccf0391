"""Policies that propose architectures."""

from few_shot_nas.controllers.base import Controller
from few_shot_nas.controllers.enas import ENASController
from few_shot_nas.controllers.factorised import FactorisedController
from few_shot_nas.controllers.lstm import LSTMController

CONTROLLERS: dict[str, type[Controller]] = {
    "LSTM": LSTMController,
    "ENAS": ENASController,
    "Factorised": FactorisedController,
}
