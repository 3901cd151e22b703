"""Run-time pruning: how much of a network runs depends on the input."""

from penjing.adaptive.channel_density import ChannelDensity
from penjing.adaptive.channel_files import write_channels
from penjing.adaptive.channels import ChannelGatedNetwork
from penjing.adaptive.criteria import NEVER, ExitPolicy
from penjing.adaptive.exit_files import StageRunner, write_conditional, write_stages
from penjing.adaptive.exits import EarlyExitNetwork, Exited, RoutedNetwork
from penjing.adaptive.gate_rate import GateRate
from penjing.adaptive.gated import GatedNetwork, Skipped
from penjing.adaptive.gated_files import write_gated
from penjing.adaptive.sandwich import Sandwich
from penjing.adaptive.slimmable import SlimmableNetwork

__all__ = [
    "NEVER",
    "ChannelDensity",
    "ChannelGatedNetwork",
    "EarlyExitNetwork",
    "ExitPolicy",
    "Exited",
    "GateRate",
    "GatedNetwork",
    "RoutedNetwork",
    "Sandwich",
    "Skipped",
    "SlimmableNetwork",
    "StageRunner",
    "write_channels",
    "write_conditional",
    "write_gated",
    "write_stages",
]
