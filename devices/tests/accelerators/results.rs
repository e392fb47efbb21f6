//! What accelerators compute, against the same computation on the vCPU.

use gmem_core::page::Unit;
use gmem_devices::accel::mmu::{Gpu, Npu};
use gmem_devices::accel::{Command, CommandError, Element};
use gmem_work::{Rows, Shape};

use crate::simulated::{bench, hbm};
use crate::{PAGE, attach, get, put};

#[test]
fn results_have_the_bits_that_the_vcpu_computes() {
    let bench = bench(1024, 512, Unit::Page, vec![hbm(1024)]);
    let (_npu, mut npu) = attach::<Npu>(&bench, 64);
    let (_gpu, mut gpu) = attach::<Gpu>(&bench, 128);
    let float = |i: usize| ((i * 37 % 1000) as f32 / 7.0 - 50.0).to_le_bytes();
    let vector = |seed: usize| -> Vec<u8> { (0..4096).flat_map(|i| float(i + seed)).collect() };
    let (x, mut y) = (vector(1), vector(99));
    put(&bench, 100, &x);
    put(&bench, 200, &y);
    let saxpy = Command::Saxpy {
        a: 1.25,
        x: 100 * PAGE,
        y: 200 * PAGE,
        len: x.len() as u64,
    };
    // Once on each: the second finds the first one's result.
    npu.execute(saxpy).unwrap();
    gpu.execute(saxpy).unwrap();
    gmem_work::saxpy(1.25, &x, &mut y).unwrap();
    gmem_work::saxpy(1.25, &x, &mut y).unwrap();
    let sum = Command::Sum {
        from: 200 * PAGE,
        len: y.len() as u64,
    };
    assert_eq!(npu.execute(sum).unwrap(), gmem_work::sum_u64(&y).unwrap());
    let reduce = Command::Reduce {
        from: 200 * PAGE + 4,
        len: y.len() as u64 - 8,
    };
    let mut total = gmem_work::Sum::new();
    total.add(&y[4..y.len() - 4]).unwrap();
    let bits = u64::from(total.total().to_bits());
    assert_eq!(npu.execute(reduce).unwrap(), bits);
    assert_eq!(gpu.execute(reduce).unwrap(), bits);
    assert!(get(&bench, 200, y.len()) == y);
}

#[test]
fn matrix_products_and_attention_have_the_bits_that_the_vcpu_computes() {
    let bench = bench(1024, 512, Unit::Page, vec![hbm(1024)]);
    let (_npu, mut npu) = attach::<Npu>(&bench, 64);
    let (_gpu, mut gpu) = attach::<Gpu>(&bench, 128);
    let values = |count: usize, seed: usize| {
        (0..count).map(move |i| ((i * 37 + seed) % 1000) as f32 / 7.0 - 50.0)
    };
    let floats =
        |count, seed| -> Vec<u8> { values(count, seed).flat_map(f32::to_le_bytes).collect() };
    let halves = |count, seed| -> Vec<u8> {
        let half = |value| gmem_work::bf16_of_f32(value).to_le_bytes();
        values(count, seed).flat_map(half).collect()
    };
    // Rows that cross pages, and more columns than are worked on at once.
    let shape = Shape {
        m: 3,
        n: 1100,
        k: 5,
    };
    let (m, n, k) = (3, 1100, 5);
    for (element, of) in [
        (Element::F32, &floats as &dyn Fn(usize, usize) -> Vec<u8>),
        (Element::Bf16, &halves),
    ] {
        let (a, b, mut c) = (of(m * k, 1), of(k * n, 2), floats(m * n, 3));
        put(&bench, 100, &a);
        put(&bench, 110, &b);
        put(&bench, 130, &c);
        let product = Command::Gemm {
            shape,
            element,
            a: 100 * PAGE,
            b: 110 * PAGE,
            c: 130 * PAGE,
        };
        npu.execute(product).unwrap();
        gpu.execute(product).unwrap();
        for _ in 0..2 {
            match element {
                Element::F32 => gmem_work::gemm_f32(shape, &a, &b, &mut c),
                Element::Bf16 => gmem_work::gemm_bf16(shape, &a, &b, &mut c),
            }
            .unwrap();
        }
        assert!(get(&bench, 130, c.len()) == c);
    }

    let (width, tokens) = (300 * 4, 200);
    let (query, keys, cache) = (
        floats(300, 4),
        floats(300 * tokens, 5),
        floats(300 * tokens, 6),
    );
    put(&bench, 200, &query);
    put(&bench, 210, &keys);
    put(&bench, 300, &cache);
    let mut expected = vec![0; width];
    let mut attention = gmem_work::Attention::new(&query, 0.001, &mut expected).unwrap();
    for (key, value) in keys.chunks(width).zip(cache.chunks(width)) {
        attention.token(key, value).unwrap();
    }
    attention.finish();
    let asked = |out| Command::Attention {
        query: 200 * PAGE,
        keys: 210 * PAGE,
        values: 300 * PAGE,
        tokens: tokens as u64,
        width: width as u64,
        scale: 0.001,
        out,
    };
    npu.execute(asked(400 * PAGE)).unwrap();
    gpu.execute(asked(410 * PAGE)).unwrap();
    assert!(get(&bench, 400, width) == expected && get(&bench, 410, width) == expected);
    assert!(expected.iter().any(|byte| *byte != 0));
    let over = npu.execute(asked(210 * PAGE));
    assert!(
        matches!(over, Err(CommandError::Overlap { .. })),
        "{over:?}"
    );
    bench.audit();
}

#[test]
fn rows_are_looked_up_across_pages_by_both_and_a_row_that_is_none_ends_it() {
    let bench = bench(1024, 512, Unit::Page, vec![hbm(1024)]);
    let (_npu, mut npu) = attach::<Npu>(&bench, 64);
    let (_gpu, mut gpu) = attach::<Gpu>(&bench, 128);
    // 900 rows of 100 bytes, which cross pages; 1500 indices, which do too.
    let rows = Rows {
        count: 900,
        bytes: 100,
    };
    let table: Vec<u8> = (0..90_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
    let indices: Vec<u8> = (0..1500u32)
        .flat_map(|i| (i * 613 % 900).to_le_bytes())
        .collect();
    let mut expected = vec![0; 150_000];
    gmem_work::gather(&table, 100, &indices, &mut expected).unwrap();
    put(&bench, 100, &table);
    put(&bench, 200, &indices);
    let gather = |to| Command::Gather {
        table: 100 * PAGE,
        rows,
        indices: 200 * PAGE,
        count: 1500,
        to,
    };
    npu.execute(gather(300 * PAGE + 50)).unwrap();
    gpu.execute(gather(400 * PAGE + 50)).unwrap();
    for start in [300, 400] {
        assert!(get(&bench, start, 150_050)[50..] == expected[..]);
    }
    put(&bench, 201, &900u32.to_le_bytes());
    let none = gpu.execute(gather(500 * PAGE));
    assert!(matches!(none, Err(CommandError::Row(_))), "{none:?}");
    let over = gpu.execute(gather(200 * PAGE + 4));
    assert!(
        matches!(over, Err(CommandError::Overlap { .. })),
        "{over:?}"
    );
    let rows = Rows {
        count: u64::MAX,
        bytes: 100,
    };
    let huge = Command::Gather {
        table: 0,
        rows,
        indices: 0,
        count: 1,
        to: 0,
    };
    assert!(matches!(npu.execute(huge), Err(CommandError::Wraps { .. })));
    bench.audit();
}
