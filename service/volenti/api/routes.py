"""Every route, once: path, scope, listener, limit and shapes. What is not in this table is not served."""

from __future__ import annotations

from volenti.api import (
    asking,
    check,
    confirmation,
    consents,
    data_subjects,
    decisions,
    health,
    ledger,
    page,
    policies,
    schema,
    wire,
)
from volenti.api.endpoint import Route

CHECK_BYTES = 64 * 1024
BATCH_BYTES = 1024 * 1024
FORM_BYTES = 16 * 1024
WRITE_BYTES = 256 * 1024
POLICY_BYTES = 512 * 1024

ONCE = {"Idempotency-Key": "makes a retry safe: the first answer is given again, for 7 days"}
RETRY = {
    **ONCE,
    "Prefer": "wait=N waits at most N seconds for the signed proof of each entry and brings it along",
}
DEADLINE = {
    "Volenti-Deadline-Ms": "how long the answer may take, 5 to 5000, 1000 if absent; past it the answer is deny system.deadline_exceeded"
}
AS_OF = {"as_of": "an earlier instant (RFC 3339): what was known and in force then"}
PERIOD = {
    "from": "an RFC 3339 instant, included; default: the beginning",
    "to": "an RFC 3339 instant, excluded; default: no end",
}
PAGING = {"limit": "how many, at most 1,000", "cursor": "next_cursor of the page before"}


def routes(*, public_log: bool, test_clock: bool) -> tuple[Route, ...]:
    """The table; two rows depend on the deployment: whether logs are public, and whether the clock stands."""
    log_scope = None if public_log else "ledger:read"
    table = [
        Route("POST", "/v1/check", check.check_one, "May this be done, to this person, now?", scope="check", limit=CHECK_BYTES,
              request=wire.CheckRequest, answer=wire.CheckAnswer, errors=(503,), headers=DEADLINE, hot=True, unreadable=check.unreadable),
        Route("POST", "/v1/check/batch", check.check_batch, "Up to 1,000 checks on one revision", scope="check", limit=BATCH_BYTES,
              request=wire.CheckBatchRequest, answer=wire.CheckBatchAnswer, errors=(503,), headers=DEADLINE, hot=True),
        Route("POST", "/v1/consents", consents.record_choices, "Record choices of one person", scope="consents:write", limit=WRITE_BYTES,
              request=wire.ConsentsRequest, answer=wire.RecordedAnswer, status=201, errors=(409, 503), headers=RETRY),
        Route("POST", "/v1/consents/batch", consents.record_many, "Record choices of many people, each on its own", scope="consents:write", limit=BATCH_BYTES,
              request=wire.ConsentsBatchRequest, answer=wire.ConsentsBatchAnswer, errors=(503,), headers=ONCE),
        Route("POST", "/v1/offers", consents.issue_offer, "State what is about to be put before a person", scope="consents:write", limit=WRITE_BYTES,
              request=wire.OfferRequest, answer=wire.OfferAnswer, status=201, errors=(409, 503), headers=ONCE),
        Route("GET", "/v1/data-subjects/{id}", data_subjects.show, "What is in force for a person", scope="consents:read",
              answer=wire.DataSubjectAnswer, errors=(404, 422, 503), query=AS_OF),
        Route("PATCH", "/v1/data-subjects/{id}", data_subjects.update, "Change facts about a person", scope="preferences:write", limit=WRITE_BYTES,
              request=wire.FactsRequest, answer=wire.RecordedAnswer, errors=(404, 409, 503), headers=RETRY),
        Route("GET", "/v1/data-subjects/{id}/history", data_subjects.show_history, "Every entry of a person", scope="consents:read",
              answer=wire.History, errors=(404, 422, 503), query=PAGING | AS_OF),
        Route("GET", "/v1/data-subjects/{id}/diff", data_subjects.show_difference, "What changed for a person between two instants", scope="consents:read",
              answer=wire.DataSubjectDifference, errors=(404, 422, 503), query={"from": "the earlier instant", "to": "the later instant; now if absent"}),
        Route("POST", "/v1/data-subjects/{id}/restriction", data_subjects.restrict, "Restrict the processing of a person's data (GDPR Art. 18)", scope="data_subjects:erase",
              limit=WRITE_BYTES, request=wire.RestrictionRequest, answer=wire.RecordedAnswer, errors=(404, 409, 503), headers=RETRY),
        Route("POST", "/v1/data-subjects/lookup", data_subjects.lookup, "The id of the person that an identifier belongs to", scope="consents:read",
              limit=CHECK_BYTES, request=wire.Lookup, answer=wire.LookupAnswer, errors=(404, 503)),
        Route("GET", "/v1/data-subjects/{id}/decisions", decisions.list_decisions, "The decisions about a person, by time", scope="decisions:read",
              answer=decisions.DecisionList, errors=(404, 422, 503), query=PERIOD | PAGING),
        Route("GET", "/v1/decisions/{id}", decisions.show_decision, "A logged decision", scope="decisions:read", answer=decisions.DecisionAnswer, errors=(404, 503)),
        Route("GET", "/v1/decisions/{id}/explain", decisions.explain_decision, "A logged decision, made again from the state and by the policy of then",
              scope="decisions:read", answer=decisions.DecisionExplanation, errors=(404, 410, 503)),
        Route("GET", "/v1/policies", policies.list_versions, "The published versions of the policy", scope="policy:read", answer=wire.PolicyList, errors=(503,)),
        Route("POST", "/v1/policies", policies.publish_version, "Publish the next version of the policy", scope="policy:write", limit=POLICY_BYTES,
              request=wire.PolicyRequest, answer=wire.PolicyAnswer, status=201, errors=(409, 503), headers=ONCE),
        Route("GET", "/v1/policies/{version}", policies.show_version, "One published version", scope="policy:read", answer=wire.PolicyAnswer, errors=(404, 503)),
        Route("POST", "/v1/policies/{version}/activate", policies.activate_version, "Put a published version in force", scope="policy:write", limit=1024,
              request=wire.ActivationRequest, answer=wire.PolicyAnswer, status=201, errors=(404, 409, 503), headers=ONCE),
        Route("GET", "/v1/ledger/checkpoint", ledger.show_checkpoint, "The newest signed tree head", scope="ledger:read", media=(ledger.TEXT,), errors=(503,)),
        Route("GET", "/v1/ledger/entries/{key}", ledger.show_entry, "An entry by index or id", scope="ledger:read", answer=wire.LedgerEntry, errors=(404, 503)),
        Route("GET", "/v1/ledger/entries/{key}/proof", ledger.show_proof, "The proof that an entry is in the signed tree", scope="ledger:read",
              answer=wire.LedgerProof, media=("application/json", ledger.TEXT), errors=(404, 503)),
        Route("GET", "/v1/ledger/consistency", ledger.show_consistency, "The proof that one tree extends another", scope="ledger:read",
              answer=wire.ConsistencyProof, errors=(422, 503), query={"from": "the smaller size", "to": "the larger size"}),
        Route("GET", "/v1/ledger/keys", ledger.show_keys, "The keys that sign the log", scope="ledger:read", answer=wire.LedgerKeys, errors=(503,)),
        Route("GET", "/c/{token}", confirmation.open_page, "The page of a double opt-in: opening it changes nothing", listener="public",
              media=(page.HTML,), errors=(404, 410, 503)),
        Route("POST", "/c/{token}", confirmation.confirm_page, "Confirm what the page asks for", listener="public",
              media=(page.HTML,), errors=(404, 410, 503)),
        Route("GET", "/p/{token}", asking.open_asking, "The page that asks a person for a consent: opening it changes nothing", listener="public",
              media=(page.HTML,), errors=(404, 410, 503)),
        Route("POST", "/p/{token}", asking.answer_asking, "Agree or refuse", listener="public", limit=FORM_BYTES,
              request=wire.AskingForm, form=True, media=(page.HTML,), errors=(404, 409, 410, 503)),
        Route("GET", "/.well-known/jwks.json", ledger.show_jwks, "The public keys of tokens", listener="public", answer=wire.JsonWebKeySet),
        Route("GET", "/log/{log}/checkpoint", ledger.log_checkpoint, "The newest checkpoint of a log", scope=log_scope, listener="public",
              media=(ledger.TEXT,), errors=(404, 503)),
        Route("GET", "/log/{log}/tile/entries/{rest:path}", ledger.log_entries, "A bundle of entries of a log", scope="audit:export", listener="public",
              media=(ledger.BINARY,), errors=(404, 503)),
        Route("GET", "/log/{log}/tile/{rest:path}", ledger.log_tile, "A tile of hashes of a log", scope=log_scope, listener="public",
              media=(ledger.BINARY,), errors=(404, 503)),
        Route("GET", "/healthz", health.healthy, "The process answers", listener="admin", answer=wire.Health),
        Route("GET", "/readyz", health.ready, "The process should get requests", listener="admin", answer=wire.Health, errors=(503,)),
        Route("GET", "/schema", schema.page, "This document, to read", listener="admin", media=(page.HTML,)),
        Route("GET", "/schema/openapi.json", schema.document, "This document", listener="admin", media=("application/json",)),
    ]  # fmt: skip
    if test_clock:
        table.append(Route("POST", "/v1/test/clock", health.move_clock, "Move the standing clock forward", scope="admin", limit=1024,
                           request=wire.TestClock, answer=wire.ClockAnswer, errors=(404, 409, 503)))  # fmt: skip
    return tuple(table)
