# The question of bench/evaluate.py for Rego: may this be done (input.action), for this purpose, to this person?
# data.purposes has the purposes with their terms by "action/channel/place", data.people the people with their standings
# by "purpose/channel". Undefined is no: a compiled query of rego-cpp does not see a default.
package volenti

import rego.v1

purpose := data.purposes[input.purpose]

person := data.people[input.person]

standing := person.standings[input.standing]

allow if {
	covered
	not person.restricted
	every place in input.places {
		carried(purpose.terms[place])
	}
}

covered if {
	purpose.actions[input.action]
	purpose.channels[input.channel]
	purpose.topics[input.topic]
	every category in input.data {
		purpose.data[category]
	}
	purpose.recipients[input.recipient]
	purpose.regions[input.region]
	purpose.active_from <= input.now
	input.now < purpose.retired_at
}

carried(terms) if terms.needs == "nothing"

carried(terms) if {
	terms.needs != "nothing"
	terms.needs != "prohibited"
	standing.state == "granted"
	input.now < standing.since + terms.lasts
	standing.version >= purpose.version
	standing.grade >= purpose.grade
	of_age(terms)
}

carried(terms) if {
	terms.needs == "silence"
	not refused
}

carried(terms) if {
	terms.needs == "relation"
	not refused
	related(terms)
}

of_age(_) if standing.of_age

of_age(terms) if {
	not standing.of_age
	input.now >= person.born + terms.of_age
}

related(terms) if input.now < person.purchase + terms.purchase

related(terms) if {
	input.now >= person.purchase + terms.purchase
	input.now < person.inquiry + terms.inquiry
}

refused if standing.state == "denied"

refused if standing.state == "withdrawn"

refused if standing.state == "objected"
