"""From payment to link: a payment that was taken ends as a delivered link, or as a question to the owner."""

from tgmembership_async.fulfillment.fulfillment import Fulfillment, Pending
from tgmembership_async.fulfillment.policy import FulfillmentPolicy

__all__ = ["Fulfillment", "FulfillmentPolicy", "Pending"]
