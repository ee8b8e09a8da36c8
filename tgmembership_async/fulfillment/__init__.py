"""Fulfill payments: grant each one once and deliver the link, or ask the owner for a decision."""

from tgmembership_async.fulfillment.fulfillment import Fulfillment
from tgmembership_async.fulfillment.pending import Pending
from tgmembership_async.fulfillment.policy import FulfillmentPolicy

__all__ = ["Fulfillment", "FulfillmentPolicy", "Pending"]
