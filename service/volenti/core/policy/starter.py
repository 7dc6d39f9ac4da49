"""The policy that a new workspace begins with, as text for people to change."""

_NAME = "CONTROLLER_NAME"

_TEMPLATE = """\
# The policy: what may be done with people's data, for which purpose, and with whose consent.
#
# Change it freely, then run `volenti policy lint FILE` and `volenti policy publish FILE`.
# A published version never changes: publishing again makes a new version, and the ledger remembers each of them.

controller:
  name: CONTROLLER_NAME
  # contact: privacy@your-company.example     # where people reach you about their data
  # establishment: DE                         # the country that you are established in

# The places you sell to. If nobody knows where a person is, the strictest of these places decides.
# markets: [DE, FR, GB, US]

# The law of each place, as shipped data: docs/jurisdictions.md lists every value with its source. It binds beside what
# the purposes below say, whichever is the stricter. An override changes a value; a laxer one must say why.
jurisdictions: "2026.11"
# overrides:
#   DE: {email_marketing: {value: consent}}
#   US: {consent_expiry: {value: P36M}}
#   GB: {analytics: {value: opt_out, because: "statistics only, reviewed by counsel on 2026-11-02"}}

# addresses: managed                            # send only to addresses that are registered; verified: and proved
# asking: {cooldown: P30D, per_quarter: 4}      # how often a person may be asked for consent
# suspend: {purposes: [], channels: [sms]}      # kill switches: what stands here is denied at once

languages: [en, de]     # every notice below must be written in each of these

# How old a grant may be when it reaches us (imports, shops that were offline). An older one counts as unproved.
backdating_limit: P30D


# --- Purposes: the reasons for which you use data -------------------------------------------------------------------
#
# basis says why a purpose is lawful. `default` answers everywhere; add a row for a place that differs.
#   prohibited            nobody
#   consent               only people who said yes
#   soft_opt_in           customers, until they object: add relations, such as {purchase: P24M}
#   legitimate_interest   everybody, until they object
#   opt_out               everybody, until they opt out
#   contract              needed to deliver what the person ordered
#   legal_obligation      the law demands it
# activity says which row of the jurisdiction profiles binds beside the basis, for what is not sent, sold or shared.
# A purpose is never deleted once it was published. To end it, add: retired_at: 2027-01-01T00:00:00Z

purposes:

  newsletter:
    title: {en: Newsletter, de: Newsletter}
    class: marketing
    actions: [send]
    basis: {default: consent}
    channels: [email, sms, push]
    topics: [weekly, offers, events]
    notice: newsletter
    # consent: {valid_for: P24M, double_opt_in: true, minimum_evidence: E1}   # ends after 24 months; must be confirmed
    # data: [contact]           # the categories of data that it uses; a question about another one is denied
    # recipients: [mailer]      # who else gets the data, and regions: where it may go
    # retention: P36M           # how long the data may be used after the last grant or tie

  order_updates:
    title: {en: Order updates, de: Nachrichten zur Bestellung}
    class: transactional
    actions: [send]
    basis: {default: contract}
    channels: [email, sms]

  analytics:
    title: {en: Analytics, de: Statistik}
    actions: [use]
    activity: analytics
    basis: {default: consent}
    notice: analytics

  personalisation:
    title: {en: Personalisation, de: Personalisierung}
    actions: [profile]
    activity: personalisation
    basis: {default: consent}
    notice: personalisation

  advertising:
    title: {en: Advertising partners, de: Werbepartner}
    actions: [share, sell]
    activity: advertising
    basis: {default: consent, US: opt_out}
    notice: advertising

  ai_decisioning:
    title: {en: Automated decisions, de: Automatische Entscheidungen}
    actions: [automate]
    activity: ai_decisioning
    basis: {default: consent}
    notice: ai_decisioning

  model_training:
    title: {en: Training of models, de: Training von Modellen}
    actions: [train]
    basis: {default: consent}
    notice: model_training

  security:
    title: {en: Security, de: Sicherheit}
    actions: [use]
    basis: {default: legal_obligation}


# --- Topics: what people may choose from within a purpose -----------------------------------------------------------

topics:
  # A topic may have a parent: who does not want the parent does not get the topic.
  weekly: {title: {en: Weekly letter, de: Wochenbrief}}
  offers: {title: {en: Offers, de: Angebote}}
  events: {title: {en: Events, de: Veranstaltungen}}


# --- Notices: the words that people agree to ------------------------------------------------------------------------
#
# New words need a higher version. `change: material` (the default) means that those who agreed to older words are
# asked again; `change: minor`, for a corrected typing error, keeps their consent. `change: extends` with
# `adds: {recipients: [partner]}` keeps it for all but what is added.

notices:

  newsletter:
    version: 1
    text:
      en:
        title: Newsletter
        body: >-
          Yes, write to me about news, offers and events by e-mail, text message or push notification. I choose the
          channels and topics, and I can stop at any time.
      de:
        title: Newsletter
        body: >-
          Ja, schreibt mir über Neuigkeiten, Angebote und Veranstaltungen: per E-Mail, SMS oder Push-Nachricht.
          Kanäle und Themen wähle ich selbst, und ich kann mich jederzeit abmelden.

  analytics:
    version: 1
    text:
      en:
        title: Analytics
        body: >-
          Yes, you may record how I use your website and apps, to find out what works and what to improve. I can
          change my mind at any time.
      de:
        title: Statistik
        body: >-
          Ja, ihr dürft aufzeichnen, wie ich eure Website und Apps nutze, um zu erkennen, was gut funktioniert und was
          besser werden muss. Ich kann es mir jederzeit anders überlegen.

  personalisation:
    version: 1
    text:
      en:
        title: Personalisation
        body: >-
          Yes, you may build a profile from what I look at and buy, and show me what suits it. Without it I see the
          same as everybody else. I can change my mind at any time.
      de:
        title: Personalisierung
        body: >-
          Ja, ihr dürft aus dem, was ich ansehe und kaufe, ein Profil bilden und mir zeigen, was dazu passt. Ohne
          Profil sehe ich dasselbe wie alle anderen. Ich kann es mir jederzeit anders überlegen.

  advertising:
    version: 1
    text:
      en:
        title: Advertising partners
        body: >-
          Yes, you may pass data about me to your advertising partners, also for payment, so that they can show me
          advertisements that fit on other websites and apps. I can change my mind at any time; nothing more is
          passed on from then.
      de:
        title: Werbepartner
        body: >-
          Ja, ihr dürft Daten über mich an eure Werbepartner weitergeben, auch gegen Bezahlung, damit sie mir auf
          anderen Websites und in anderen Apps passende Werbung zeigen. Ich kann es mir jederzeit anders überlegen;
          ab dann wird nichts mehr weitergegeben.

  ai_decisioning:
    version: 1
    text:
      en:
        title: Automated decisions
        body: >-
          Yes, a computer may decide alone which offers, prices and messages I get. I can ask for a person to look at
          a decision and explain it, and I can change my mind at any time.
      de:
        title: Automatische Entscheidungen
        body: >-
          Ja, ein Computer darf allein entscheiden, welche Angebote, Preise und Nachrichten ich bekomme. Ich kann
          verlangen, dass ein Mensch eine Entscheidung prüft und erklärt, und es mir jederzeit anders überlegen.

  model_training:
    version: 1
    text:
      en:
        title: Training of models
        body: >-
          Yes, you may use data about me to train your machine-learning models. If I change my mind, my data is left
          out of every training that starts afterwards.
      de:
        title: Training von Modellen
        body: >-
          Ja, ihr dürft Daten über mich verwenden, um eure Modelle für maschinelles Lernen zu trainieren. Überlege ich
          es mir anders, bleiben meine Daten bei jedem Training außen vor, das danach beginnt.
"""


def starter_policy(controller_name: str) -> str:
    """Give the starter policy as commented YAML with this controller's name in it.

    Whatever the name is, the text is YAML and holds exactly that name; whether it can be published (not empty, one
    line, at most 200 characters) is for `lint` to say.
    """
    return _TEMPLATE.replace(_NAME, _double_quoted(controller_name))


def _double_quoted(text: str) -> str:
    """Give a YAML double-quoted scalar: no letter in it can end the quotation or break the line."""
    return '"' + "".join(map(_letter, text)) + '"'


def _letter(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    return letter if letter.isprintable() else f"\\U{ord(letter):08X}"
