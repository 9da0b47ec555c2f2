use super::*;
use crate::kernels::testing::{Output, Random};
use std::vec::Vec;

#[test]
fn every_number_of_every_length_has_its_entry() {
    let mut random = Random(31);
    let table: [i8; LEN] = core::array::from_fn(|_| random.below(256) as u8 as i8);
    for len in [0, 1, 15, 63, 64, 65, 127, 128, 256, 300, 1000] {
        for offset in 0..3 {
            // All numbers, and some at random.
            let x: Vec<i8> = (0..len)
                .map(|i| if i < 256 { i as u8 as i8 } else { random.below(256) as u8 as i8 })
                .collect();
            let want: Vec<i8> = x.iter().map(|x| table[(i32::from(*x) + 128) as usize]).collect();
            for isa in Isa::available() {
                let mut y = Output::new(len, offset, 77);
                y.get().copy_from_slice(&x);
                select(isa)(&table, y.get());
                assert_eq!(y.written(), want, "{isa}, {len} from {offset} on");
            }
        }
    }
}
