"""Recognise the columns of a file by their headings: a table of spellings, and exports of other services."""

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from attrs import frozen

from tgmembership_async.errors import UsageError

# ruff: noqa: RUF001 - headings in other scripts

FIELDS: Final = ("ref", "member_id", "plan_id", "note", "paid_at")
_SHOWN: Final = 12


def squashed(name: str) -> str:
    """Return a heading without case, accents, white space, punctuation, and a "(UTC)" or "(metadata)" after it."""
    text = name.strip().casefold()
    for ending in ("(utc)", "(metadata)"):
        text = text.removesuffix(ending)
    return "".join(char for char in unicodedata.normalize("NFKD", text) if char.isalnum()).casefold()


def _spelt(spellings: str) -> frozenset[str]:
    return frozenset(map(squashed, spellings.split()))


SPELLINGS: Final[Mapping[str, frozenset[str]]] = {
    "ref": _spelt(
        "ref reference paymentid chargeid telegrampaymentchargeid paymentref paymentreference paymentintent "
        "paymentintentid transaction transactionid txid txnid orderid ordernumber invoiceid invoicenumber importid "
        "externalid referenz zahlung zahlungid zahlungsid zahlungsreferenz transaktionsid bestellid bestellnummer "
        "rechnungsnummer rechnungsnr rechnungnr bestellnr referencia iddepago idpago pagoid idtransaccion "
        "referencedepaiement idpaiement idcommande "
        "idpagamento iddopagamento riferimento idtransazione betalingsid idplatnosci idплатежа платежid номерплатежа "
        "номерзаказа idтранзакции idзаказа idплатежу"
    ),
    "member_id": _spelt(
        "memberid member userid user uid telegram telegramid telegramuser telegramuserid telegramchatid tgid tg tguser "
        "tguserid idtelegram telegramnumericid chatid mitglied mitgliedid mitgliedsid nutzer nutzerid benutzer "
        "benutzerid telegramnutzerid usuario usuarioid idusuario iddeusuario iddelusuario idmiembro miembro "
        "utilisateur idutilisateur iddelutilisateur idmembre membre utente idutente idmembro membro iddousuario "
        "gebruiker gebruikersid idużytkownika użytkownik kullanıcıid kullaniciid idпользователя пользователь "
        "idтелеграм телеграмid телеграм idтелеграма idучастника участник idкористувача 用户id 会员id ユーザーid"
    ),
    "plan_id": _spelt(
        "planid plan tariff tariffid tarif tarifid tarifa idplan iddelplan iddeplan idplanu idduplan idpiano piano "
        "plano idplano iddoplano план idплана планid тариф idтарифа"
    ),
    "note": _spelt(
        "note notes comment comments remark remarks notiz notizen bemerkung kommentar anmerkung nota notas "
        "comentario comentarios commentaire remarque commento uwagi opmerking примечание комментарий заметка"
    ),
    "paid_at": _spelt(
        "paidat paid paidon paiddate datepaid paymentdate paymenttime dateofpayment bezahlt bezahltam gezahltam "
        "zahlungsdatum zahltag fechadepago fechapago pagadoel datedepaiement payele datadepagamento datadelpagamento "
        "pagatoil dataplatnosci betaaldop датаоплаты датаплатежа оплачено"
    ),
}
"""The spellings of each field, as `squashed` returns them."""


@frozen
class Export:
    """An export of another service, recognised by `marks`: all columns of one of these sets are there.

    `columns` says where a field is instead of, or before, the general spellings; a cell that is empty leaves it to the
    next column. `foreign` are headings that name something else there. Without a column of refs, a ref consists of the
    name of the service and the cells of `ref_of`. A row counts only if `status` has one of the values `paid`.
    """

    name: str
    service: str
    marks: Sequence[frozenset[str]]
    columns: Mapping[str, Sequence[str]]
    foreign: frozenset[str] = frozenset()
    ref_of: Sequence[str] = ()
    status: str | None = None
    paid: frozenset[str] = frozenset()
    advice: str = ""


EXPORTS: Final = (
    Export(
        "Stripe payments export",
        "stripe",
        [frozenset({"id", "amountrefunded", "status"})],
        {"ref": ["paymentintentid", "id"], "paid_at": ["createddate", "created"]},
        status="status",
        paid=frozenset({"paid", "succeeded"}),
        advice="it has Telegram ids only if your checkout stored them in the metadata of the payment",
    ),
    Export(
        "Patreon members export",
        "patreon",
        [frozenset({"patronstatus", "userid"})],
        {"paid_at": ["lastchargedate"]},
        foreign=frozenset({"userid", "user", "memberid", "member"}),
        ref_of=["userid"],
        status="patronstatus",
        paid=frozenset({"active patron"}),
        advice="its User ID is the id at Patreon, and not a Telegram id: add a column telegram_id",
    ),
    Export(
        "Memberful members export",
        "memberful",
        [frozenset({"memberfulid", "email"})],
        {},
        foreign=frozenset({"plan"}),
        ref_of=["memberfulid"],
        status="active",
        paid=frozenset({"yes"}),
        advice="it has Telegram ids only if a custom field asks for them: add a column telegram_id",
    ),
    Export(
        "Telegram member export",
        "telegram",
        [frozenset({"userid", "groupid"}), frozenset({"userid", "accesshash"})],
        {},
        ref_of=["groupid", "userid"],
    ),
)
"""The headings were seen in public programs that read these files; the values of the status columns are assumed."""


@frozen
class Layout:
    """The columns of the fields in a record: `places` are indices by field, in order of preference."""

    names: tuple[str, ...]
    places: Mapping[str, tuple[int, ...]]
    ignored: tuple[str, ...]
    reach: int
    export: Export | None = None
    ref_parts: tuple[int, ...] = ()
    status: int | None = None

    @property
    def used(self) -> frozenset[int]:
        """Return the indices of all columns that are read."""
        status = () if self.status is None else (self.status,)
        return frozenset({*(place for found in self.places.values() for place in found), *self.ref_parts, *status})

    def __str__(self) -> str:
        told = [self._shown(field) for field in FIELDS if field in self.places or self._parts(field)]
        if self.export is not None and self.status is not None:
            told.append(f"only rows whose {self.names[self.status]} is {' or '.join(sorted(self.export.paid))}")
        if self.ignored:
            more = f" and {len(self.ignored) - _SHOWN} more" if len(self.ignored) > _SHOWN else ""
            told.append(f"ignored: {', '.join(map(repr, self.ignored[:_SHOWN]))}{more}")
        return "; ".join(told)

    def _parts(self, field: str) -> tuple[int, ...]:
        return self.ref_parts if field == "ref" and field not in self.places else ()

    def _shown(self, field: str) -> str:
        places = self.places.get(field) or self._parts(field)
        names = [self.names[place] for place in places]
        between = " or " if field in self.places else " and "
        return field if names == [field] else f"{field} from {between.join(map(repr, names))}"


def layout(names: Sequence[str], chosen: Mapping[str, str], needed: Collection[str]) -> Layout:
    """Return the layout. Raises UsageError if a field is missing, or if two columns could be one field.

    `chosen` maps a field to its heading, or to "" if no column has it.
    """
    keys = [squashed(name) for name in names]
    export = next((each for each in EXPORTS if any(marks <= {*keys} for marks in each.marks)), None)
    places: dict[str, tuple[int, ...]] = {}
    for field in FIELDS:
        if field in chosen:
            found = _chosen(names, keys, field, chosen[field]) if chosen[field] else ()
        else:
            found = _found(names, keys, field, export)
        if found:
            places[field] = found
    parts = () if export is None or "ref" in places else tuple(keys.index(one) for one in export.ref_of if one in keys)
    status = keys.index(export.status) if export is not None and export.status in keys else None
    for field in needed:
        if field not in places and not (field == "ref" and parts):
            raise UsageError(_missing(names, field, export))
    used = {*(place for found in places.values() for place in found), *parts, *(() if status is None else (status,))}
    ignored = tuple(name for place, name in enumerate(names) if place not in used and name.strip())
    return Layout(tuple(names), places, ignored, max(used, default=-1), export, parts, status)


def recognised(names: Sequence[str], chosen: Mapping[str, str]) -> int:
    """Return how many fields these headings name, including those in `chosen`."""
    wanted = {squashed(heading) for heading in chosen.values()}
    known = wanted.union(*SPELLINGS.values())
    return sum(squashed(name) in known for name in names)


def _chosen(names: Sequence[str], keys: Sequence[str], field: str, heading: str) -> tuple[int, ...]:
    exact = [place for place, name in enumerate(names) if name.strip() == heading.strip()]
    found = exact or [place for place, key in enumerate(keys) if key == squashed(heading) and key]
    if len(found) != 1:
        msg = f"{len(found) or 'no'} columns are called {heading!r:.80}, for {field}; the file has {_listed(names)}"
        raise UsageError(msg)
    return tuple(found)


def _found(names: Sequence[str], keys: Sequence[str], field: str, export: Export | None) -> tuple[int, ...]:
    listed = () if export is None else tuple(keys.index(one) for one in export.columns.get(field, ()) if one in keys)
    if listed:
        return listed
    known = SPELLINGS[field] - (frozenset[str]() if export is None else export.foreign)
    found = [place for place, key in enumerate(keys) if key in known]
    named = [place for place in found if names[place].strip().lower() == field] or found
    if len(named) > 1:
        several = " and ".join(repr(names[place]) for place in named)
        msg = f"{several} could both be {field}: say which with --column {field}=HEADING"
        raise UsageError(msg)
    return tuple(named)


def _missing(names: Sequence[str], field: str, export: Export | None) -> str:
    if export is not None and export.advice:
        return f"this {export.name} has no {field}: {export.advice}, or name the column with --column {field}=HEADING"
    return (
        f"no column is recognised as {field} among {_listed(names)}: begin the file with headings such as "
        f"ref,member_id,plan_id,note, or name the column with --column {field}=HEADING"
    )


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(repr(name) for name in names[:_SHOWN] if name.strip()):.300}"
