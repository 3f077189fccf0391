"""Controllers: modules that hold a policy, a distribution over the architectures of a space."""

from few_shot_nas.controllers.base import Controller
from few_shot_nas.controllers.enas import ENASController
from few_shot_nas.controllers.factorised import FactorisedController
from few_shot_nas.controllers.lstm import LSTMController

CONTROLLERS: dict[str, type[Controller]] = {
    "LSTM": LSTMController,
    "ENAS": ENASController,
    "Factorised": FactorisedController,
}
