//! Plans: as text, as JSON, as a chart, and what they cost.

use processor_core::plan::{FORMAT, Load, PlanError, TopologyPlan};

use crate::support::driver::{numbers, topology};
use crate::topology::everything;

#[test]
fn a_plan_is_text() {
    insta::assert_snapshot!(everything().describe());
}

#[test]
fn a_plan_is_a_chart() {
    insta::assert_snapshot!(everything().plan().to_mermaid());
}

#[test]
fn a_plan_is_json_that_reads_back_as_the_same_plan() {
    let plan = everything().plan();
    let json = plan.to_json();
    insta::assert_snapshot!(json);
    assert_eq!(TopologyPlan::from_json(&json).unwrap(), plan);
}

#[test]
fn a_plan_costs_what_its_formulas_say() {
    insta::assert_snapshot!(everything().plan().cost(Load::default()).to_string());
}

#[test]
fn the_same_program_gives_the_same_plan() {
    assert_eq!(everything().plan(), everything().plan());
}

#[test]
fn what_is_no_plan_is_refused_with_what_to_do() {
    let json = topology(|builder| builder.stream("in", numbers()).to("out"))
        .plan()
        .to_json();
    let edited = json.replace("\"out\"", "\"elsewhere\"");
    let newer = json.replace("\"format\": 1", "\"format\": 2");
    let refused = |text: &str| TopologyPlan::from_json(text).unwrap_err();
    assert!(matches!(refused("{}"), PlanError::Json(_)));
    assert!(
        matches!(refused(&newer), PlanError::Format { found: 2 }),
        "format {FORMAT}"
    );
    let error = refused(&edited).to_string();
    assert!(error.contains("it was edited; write it again"), "{error}");
}

#[test]
fn a_name_that_looks_like_a_made_up_one_is_still_a_name() {
    let named = |name: &str| {
        let topology = topology(|builder| {
            builder.stream("in", numbers()).group_by_key().count(name);
        });
        topology.plan().hash().to_owned()
    };
    assert_ne!(
        named("KSTREAM-SOURCE-0000000007"),
        named("KSTREAM-SOURCE-0000000008")
    );
}
