use super::super::size::SizeError;
use super::*;

const MIB: u64 = 1 << 20;

fn tier(text: &str) -> TierSpec {
    match parse(text) {
        Ok(TierArg::Tier(spec)) => spec,
        other => panic!("{text}: {other:?}"),
    }
}

fn together(texts: &[&str]) -> Result<Tiers, TierError> {
    combine(texts.iter().map(|text| parse(text).unwrap()).collect())
}

#[test]
fn each_kind_is_read_with_its_keys() {
    let host = |unit, prefetch| TierKind::Host { unit, prefetch };
    let (page, all) = (Unit::Page, Prefetching::All);
    assert_eq!(tier("host:128M").kind, host(page, all));
    for (name, prefetch) in [
        ("off", Prefetching::Off),
        ("streams", Prefetching::Streams),
        ("all", all),
    ] {
        let text = format!("host:128M,prefetch={name}");
        assert_eq!(tier(&text).kind, host(page, prefetch));
    }
    assert_eq!(
        tier("host:128M,unit=2M"),
        TierSpec {
            size: 128 * MIB,
            kind: host(Unit::Block, all)
        }
    );
    assert_eq!(
        tier("hbm:1G,latency_us=5,gbps=12.5").kind,
        TierKind::Hbm {
            latency_us: 5,
            gbps: Some(12.5)
        }
    );
    assert_eq!(tier("zip:64M").kind, TierKind::Zip);
    assert_eq!(tier("swap:64M").kind, TierKind::Swap);
    assert_eq!(
        tier("file:512M,path=/var/tmp/swap").kind,
        TierKind::File {
            path: "/var/tmp/swap".into()
        }
    );
    assert_eq!(parse("none"), Ok(TierArg::Plain));
}

#[test]
fn unknown_kinds_are_answered_with_those_there_are() {
    let message = parse("ram:1G").unwrap_err().to_string();
    assert!(message.contains("'ram'") && message.contains("host, hbm, zip, file"));
    for kind in ["mapped", "cuda"] {
        let error = parse(&format!("{kind}:1G")).unwrap_err();
        assert_eq!(error, TierError::NotYet(kind.into()));
        assert!(error.to_string().contains("not available yet"));
    }
}

#[test]
fn malformed_tiers_are_refused() {
    assert_eq!(parse("host"), Err(TierError::NoSize("host".into())));
    assert_eq!(parse("zip:"), Err(TierError::NoSize("zip:".into())));
    assert_eq!(parse(""), Err(TierError::UnknownKind("".into())));
    assert_eq!(parse("host:0"), Err(KeyError::Size(SizeError::Zero).into()));
    assert_eq!(
        parse("hbm:1G,fast"),
        Err(KeyError::NotKeyValue("fast".into()).into())
    );
    assert_eq!(
        parse("hbm:1G,gbps=1,gbps=2"),
        Err(KeyError::Duplicate("gbps".into()).into())
    );
    assert!(matches!(
        parse("zip:1G,level=3"),
        Err(TierError::Key(KeyError::Unknown {
            of: "a zip tier",
            ..
        }))
    ));
    assert_eq!(parse("file:1G"), Err(TierError::NoPath));
    assert_eq!(parse("file:1G,path="), Err(TierError::NoPath));
    assert_eq!(
        parse("host:5M,unit=2M"),
        Err(TierError::NotBlocks(Bytes(5 * MIB)))
    );
    for bad in [
        "host:2M,unit=1G",
        "host:2M,prefetch=on",
        "hbm:1G,latency_us=-1",
        "hbm:1G,gbps=0",
        "hbm:1G,gbps=NaN",
        "hbm:1G,gbps=inf",
    ] {
        assert!(
            matches!(parse(bad), Err(TierError::Key(KeyError::Value { .. }))),
            "{bad}"
        );
    }
}

#[test]
fn the_host_comes_first_and_once() {
    assert!(matches!(
        together(&["host:64M", "hbm:128M", "zip:64M", "hbm:1G"]),
        Ok(Tiers::Tiered(specs)) if specs.len() == 4
    ));
    assert_eq!(together(&["none"]), Ok(Tiers::Plain));
    assert_eq!(
        together(&["hbm:64M", "host:64M"]),
        Err(TierError::FirstNotHost("hbm"))
    );
    assert_eq!(
        together(&["host:64M", "host:64M"]),
        Err(TierError::SecondHost)
    );
    assert_eq!(
        together(&["host:64M", "none"]),
        Err(TierError::NoneCombined)
    );
    assert_eq!(together(&["none", "none"]), Err(TierError::NoneCombined));
    assert_eq!(
        together(&["host:64M", "file:1M,path=a", "file:1M,path=a"]),
        Err(TierError::SameFile("a".into()))
    );
}

#[test]
fn swap_is_beneath_host_memory_of_pages_alone() {
    assert!(together(&["host:64M", "swap:1G"]).is_ok());
    let combined = Err(TierError::SwapCombined);
    assert_eq!(together(&["host:64M", "swap:1G", "zip:1G"]), combined);
    assert_eq!(together(&["host:64M", "zip:1G", "swap:1G"]), combined);
    assert_eq!(together(&["host:64M", "swap:1G", "swap:1G"]), combined);
    let blocks = Err(TierError::SwapBlocks);
    assert_eq!(together(&["host:64M,unit=2M", "swap:1G"]), blocks);
    assert_eq!(together(&["swap:1G"]), Err(TierError::FirstNotHost("swap")));
    assert!(parse("swap:1G,path=/x").is_err());
}
