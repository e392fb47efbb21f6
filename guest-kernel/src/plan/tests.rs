//! What is accepted, what is refused, and in which words.

use super::*;
use std::string::ToString;

fn error(text: &str) -> std::string::String {
    Plan::parse(text).unwrap_err().to_string()
}

#[test]
fn defaults_of_every_workload_parse() {
    for (name, ..) in KNOWN {
        assert_eq!(Plan::parse(name).unwrap().name, name);
    }
    let plan = Plan::parse("verify").unwrap();
    assert_eq!(plan.workload, Workload::Verify { epochs: 3 });
    assert_eq!(
        (plan.seed, plan.fill, plan.working_set),
        (1, Fill::Mixed, None)
    );
}

#[test]
fn options_are_read() {
    let plan =
        Plan::parse("zipf theta=1.2 seed=0x10 working_set=3M write=0 ops=5 fill=zero").unwrap();
    assert_eq!(plan.workload, Workload::Zipf { theta: 1.2 });
    assert_eq!((plan.seed, plan.working_set), (16, Some(3 << 20)));
    assert_eq!((plan.write_percent, plan.fill), (0, Fill::Zero));
    assert_eq!(
        plan.timed_bound(),
        Bound {
            ops: 5,
            seconds: None
        }
    );
    let together = |text| match Plan::parse(text).unwrap().workload {
        Workload::HotScan { together, .. } | Workload::Phase { together, .. } => together,
        _ => panic!("{text} has no hot pages"),
    };
    assert!(together("phase together=on") && together("hotscan together=on"));
    assert!(!together("phase") && !together("hotscan"));
    let plan = Plan::parse("wild at=0x80000000").unwrap();
    assert_eq!(
        plan.workload,
        Workload::Wild {
            at: Some(0x8000_0000)
        }
    );
}

#[test]
fn options_of_workloads_on_accelerators_are_read() {
    let workload = |text: &str| Plan::parse(text).unwrap().workload;
    let expected = Workload::Gather {
        theta: 0.5,
        row: 1024,
        batch: 16,
        hints: true,
    };
    assert_eq!(
        workload("gather theta=0.5 row=1K batch=16 hints=on"),
        expected
    );
    let expected = Workload::Layers {
        layers: 2,
        rows: 4,
        epochs: 1,
        hints: false,
    };
    assert_eq!(
        workload("layers layers=2 rows=4 epochs=1 hints=off"),
        expected
    );
    assert_eq!(workload("pingpong"), Workload::PingPong { burst: 1 });
    assert_eq!(
        workload("pingpong burst=512"),
        Workload::PingPong { burst: 512 }
    );
    // A page that two write to goes to and fro: there are few writes unless more are asked for.
    assert_eq!(Plan::parse("gather").unwrap().write_percent, 1);
    assert_eq!(Plan::parse("gather write=7").unwrap().write_percent, 7);
    let pages = |text: &str| Plan::parse(text).unwrap().pages(10_000).unwrap();
    assert_eq!((pages("pingpong"), pages("gather")), (1024, 10_000));
    assert_eq!(pages("pingpong working_set=8M"), 2048);
}

#[test]
fn hostile_drivers_are_those_of_all_devices_unless_one_is_named() {
    let workload = |text: &str| Plan::parse(text).unwrap().workload;
    let expected = |rounds, device| Workload::Hostile { rounds, device };
    assert_eq!(workload("hostile"), expected(100, Target::All));
    for target in Target::EVERY {
        let text = std::format!("hostile device={} rounds=7", target.name());
        assert_eq!(workload(&text), expected(7, target));
    }
    // It chooses its memory itself.
    assert!(error("hostile working_set=1M").contains("working_set"));
    let too_small = Plan::parse("hostile").unwrap().pages(100).unwrap_err();
    assert!(too_small.to_string().contains("more memory"), "{too_small}");
}

#[test]
fn errors_name_what_was_found_and_what_is_known() {
    let unknown = error("verfy");
    assert!(
        unknown.contains("\"verfy\"") && unknown.contains("verify, scan, stride"),
        "{unknown}"
    );
    assert!(error("").contains("no workload"));
    let option = error("verify theta=1");
    assert!(
        option.contains("\"theta\"") && option.contains("seed, working_set"),
        "{option}"
    );
    assert!(option.contains("epochs"), "{option}");
    assert!(error("none seed=1").contains("takes no options"));
    assert!(error("verify epochs").contains("epochs"));
    assert!(error("verify epochs=1 epochs=2").contains("twice"));
}

#[test]
fn values_out_of_range_are_refused() {
    for text in [
        "verify epochs=0",
        "verify epochs=-1",
        "verify epochs=99999999999999999999",
        "verify working_set=0",
        "verify working_set=12Q",
        "verify working_set=99999999T",
        "verify working_set=",
        "verify fill=blue",
        "scan write=101",
        "zipf theta=0",
        "zipf theta=NaN",
        "zipf theta=1e9",
        "hotscan hot=100",
        "phase together=yes",
        "wild at=zz",
        "gather row=100",
        "gather row=32",
        "gather batch=0",
        "gather hints=yes",
        "layers rows=17",
        "kvcache width=4K",
        "kvcache check=0",
        "pingpong burst=8193",
        "hostile rounds=0",
        "hostile device=disk",
    ] {
        let key = text.split([' ', '=']).nth(1).unwrap();
        let message = error(text);
        assert!(
            message.contains(key) && message.contains("expected"),
            "{text}: {message}"
        );
    }
}

#[test]
fn the_plan_must_fit_the_machine() {
    let plan = Plan::parse("verify working_set=8K cpus=2").unwrap();
    assert_eq!(plan.pages(100), Ok(2));
    assert!(
        plan.pages(1)
            .unwrap_err()
            .to_string()
            .contains("working_set")
    );
    assert_eq!(plan.cpus(2), Ok(2));
    assert!(plan.cpus(1).unwrap_err().to_string().contains("cpus"));
    assert!(Plan::parse("verify").unwrap().pages(0).is_err());
}

#[test]
fn ops_bound_verify_by_its_pages() {
    let pages = |text| Plan::parse(text).unwrap().pages(1000).unwrap();
    assert_eq!(pages("verify epochs=3 ops=600"), 100);
    assert_eq!(pages("verify epochs=3 ops=1"), 1);
    assert_eq!(pages("verify epochs=3 ops=600000"), 1000);
}
