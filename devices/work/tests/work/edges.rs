//! Operands that make no sense, or nothing.

use gmem_work::{
    Attention, Error, NAN, Rows, Shape, Sum, Tree, block_sum, copy, exp, gather, gemm_bf16,
    gemm_f32, saxpy, sum_u64,
};

use super::{bytes, values};

#[test]
fn lengths_that_do_not_go_together_are_errors_and_change_nothing() {
    let mut y = [7; 8];
    let says = |result: Result<(), Error>| result.unwrap_err().to_string();
    assert_eq!(says(copy(&[1; 7], &mut y)), "source has 7 bytes, not 8");
    assert_eq!(says(saxpy(1.0, &[1; 4], &mut y)), "x has 4 bytes, not 8");
    assert_eq!(
        says(saxpy(1.0, &[1; 7], &mut y[..7])),
        "7 bytes, of elements of 4 bytes"
    );
    assert_eq!(
        says(Sum::new().add(&[0; 5])),
        "5 bytes, of elements of 4 bytes"
    );
    assert_eq!(
        says(sum_u64(&[0; 12]).map(drop)),
        "12 bytes, of elements of 8 bytes"
    );
    assert_eq!(
        says(block_sum(&[0; 4100]).map(drop)),
        "block has 4100 bytes, not 4096"
    );
    let shape = Shape { m: 1, n: 2, k: 3 };
    assert_eq!(
        says(gemm_f32(shape, &[0; 8], &[0; 24], &mut y)),
        "A has 8 bytes, not 12"
    );
    assert_eq!(
        says(gemm_bf16(shape, &[0; 6], &[0; 24], &mut y)),
        "B has 24 bytes, not 12"
    );
    let shape = Shape {
        m: usize::MAX,
        n: 2,
        k: usize::MAX,
    };
    assert_eq!(
        says(gemm_f32(shape, &[0; 8], &[0; 24], &mut y)),
        "A has 8 bytes, and a shape beyond all memory"
    );
    assert_eq!(
        says(gather(&[0; 9], 4, &[0; 4], &mut y[..4])),
        "table has 9 bytes, not 8"
    );
    assert_eq!(
        says(gather(&[0; 8], 4, &[0; 4], &mut y)),
        "result has 8 bytes, not 4"
    );
    assert_eq!(
        says(gather(&[0; 8], 4, &[0; 3], &mut y)),
        "3 bytes, of elements of 4 bytes"
    );
    assert_eq!(y, [7; 8]);
    assert!(Attention::new(&[0; 4], 1.0, &mut [0; 8]).is_err());
    let mut out = [0; 4];
    let mut attention = Attention::new(&[0; 4], 1.0, &mut out).unwrap();
    assert_eq!(
        says(attention.token(&[0; 4], &[0; 8])),
        "value has 8 bytes, not 4"
    );
}

#[test]
fn an_index_beyond_the_table_is_an_error() {
    let table = [1, 2, 3, 4];
    let mut into = [0; 4];
    let indices: Vec<u8> = [1u32, 2]
        .iter()
        .flat_map(|index| index.to_le_bytes())
        .collect();
    let error = gather(&table, 2, &indices, &mut into).unwrap_err();
    assert_eq!(error, Error::Row { index: 2, rows: 2 });
    assert_eq!(error.to_string(), "row 2 of a table of 2 rows");
    assert_eq!(into, [3, 4, 0, 0]);
    assert!(
        gather(&[], 4, &[0; 4], &mut into).is_err(),
        "a table without rows"
    );
    let rows = Rows {
        count: u64::MAX,
        bytes: u64::MAX,
    };
    assert_eq!(rows.row(0), Ok(0..u64::MAX));
    assert!(rows.row(1).is_err());
}

#[test]
fn of_nothing_comes_nothing() {
    assert_eq!(Sum::new().total().to_bits(), 0);
    assert_eq!(Tree::new().total().to_bits(), 0);
    assert_eq!(block_sum(&[]), Ok(0.0));
    saxpy(2.0, &[], &mut []).unwrap();
    gather(&[], 0, &[], &mut []).unwrap();
    gather(&[], 0, &[0; 4], &mut []).unwrap();
    for shape in [Shape { m: 0, n: 2, k: 0 }, Shape { m: 0, n: 0, k: 0 }] {
        gemm_f32(shape, &[], &[], &mut []).unwrap();
    }
    let mut c = bytes(&[1.0, 2.0]);
    gemm_f32(Shape { m: 1, n: 2, k: 0 }, &[], &[], &mut c).unwrap();
    assert_eq!(values(&c), [1.0, 2.0]);
    let mut out = [0xff; 8];
    Attention::new(&[0; 8], 1.0, &mut out).unwrap().finish();
    assert_eq!(out, [0; 8]);
    Attention::new(&[], 1.0, &mut []).unwrap().finish();
}

#[test]
fn what_is_not_a_number_is_always_the_same_one() {
    let signalling = f32::from_bits(0xff80_0001);
    let mut y = bytes(&[signalling, f32::INFINITY, 1.0]);
    saxpy(1.0, &bytes(&[1.0, f32::NEG_INFINITY, 1.0]), &mut y).unwrap();
    let bits: Vec<u32> = values(&y).iter().map(|y| y.to_bits()).collect();
    assert_eq!(bits, [0x7fc0_0000, 0x7fc0_0000, 2.0f32.to_bits()]);
    let mut sum = Sum::new();
    sum.add(&bytes(&[f32::INFINITY, -f32::INFINITY, signalling]))
        .unwrap();
    assert_eq!(sum.total().to_bits(), NAN.to_bits());
    assert_eq!(exp(signalling).to_bits(), NAN.to_bits());
}
