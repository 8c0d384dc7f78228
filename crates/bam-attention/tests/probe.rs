use bam_attention::Implementation::{Fused, Reference};
use bam_attention::testing::{Case, OnTensors, Shape};
#[test]
fn probe() {
    for s in [
        [1, 1, 1, 1, 1, 1],
        [1, 2, 2, 100, 100, 16],
        [1, 2, 1, 100, 100, 17],
        [1, 2, 2, 130, 200, 64],
        [1, 2, 2, 130, 200, 128],
        [1, 2, 1, 100, 100, 200],
        [1, 2, 1, 3, 5000, 64],
    ] {
        let case = Case::random(&Shape::from(s), 3);
        for (name, case) in [
            ("plain", case.clone()),
            ("full tau", case.clone().full().with_temperature(true)),
        ] {
            let t = std::time::Instant::now();
            let got = case.passes(|o| o, Fused).unwrap();
            let fused = t.elapsed();
            let t = std::time::Instant::now();
            let again = case.passes(|o| o, Fused).unwrap();
            let second = t.elapsed();
            let t = std::time::Instant::now();
            let expected = case.passes(|o| o, Reference).unwrap();
            let far: Vec<f32> = got
                .iter()
                .zip(&expected)
                .map(|(a, b)| {
                    a.iter()
                        .zip(b)
                        .map(|(a, b)| (a - b).abs())
                        .fold(0.0f32, |m, x| if x.is_nan() { f32::NAN } else { m.max(x) })
                })
                .collect();
            println!(
                "{name} {s:?} {far:?} same {} fused {fused:?} {second:?} reference {:?}",
                got == again,
                t.elapsed()
            );
        }
    }
}
