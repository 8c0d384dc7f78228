use bam_attention::{Implementation, Lags, LogPrior, Options, Skipping, attend, testing::signed_numbers};
use burn::tensor::{Device, Tensor, TensorData};
use std::time::Instant;
fn main() {
    let device = Device::flex();
    let (h, d) = (8, 64);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
    for n in [1024usize] {
        let a = Tensor::<2>::random([n, n], burn::tensor::Distribution::Default, &device);
        let t = Instant::now();
        for _ in 0..3 { let _ = a.clone().matmul(a.clone()); }
        println!("matmul {n}: {:.1}", 3.0*2.0*(n as f64).powi(3)/t.elapsed().as_secs_f64()/1e9);
    }
    for n in [1024usize, 4096] {
        let q = signed_numbers(h*n*d, 2.0, 1); let k = signed_numbers(h*n*d, 2.0, 2); let v = signed_numbers(h*n*d, 3.0, 3);
        for (name, skipping) in [("off", Skipping::Off), ("exact", Skipping::Exact)] {
        for uniform in [true, false] {
        let device = Device::flex();
        let t = |x: &Vec<f32>, dev: &Device| Tensor::<4>::from_data(TensorData::new(x.clone(), [1,h,n,d]), dev);
        let lnw: Vec<f32> = (0..h).flat_map(|h| (0..n).map(move |c| if uniform {0.0} else {-((n-1-c) as f32).powf(0.5)*0.1*(h as f32+1.0)})).collect();
        let run = |dev: &Device, grad: bool| {
            let prior = LogPrior::new(Tensor::from_data(TensorData::new(lnw.clone(), [h,n]), dev), Lags::causal(n)).unwrap();
            let (q,k,v) = (t(&q,dev), t(&k,dev), t(&v,dev));
            let (q,k,v) = if grad { (q.require_grad(), k.require_grad(), v.require_grad()) } else {(q,k,v)};
            let o = Options::causal(Implementation::Fused).with_skipping(skipping);
            let t0 = Instant::now();
            let out = attend(q, k, v, &prior, &o).unwrap();
            let f = t0.elapsed().as_secs_f64();
            if grad { let _ = out.sum().backward(); }
            (f, t0.elapsed().as_secs_f64())
        };
        let fl = 2.0*(n as f64).powi(2)*(d*h) as f64/1e9;
        run(&device, false);
        let f = (0..3).map(|_| run(&device, false).0).fold(f64::MAX, f64::min);
        let ad = Device::flex().autodiff();
        let fb = (0..2).map(|_| run(&ad, true).1).fold(f64::MAX, f64::min);
        println!("{n} {name} uniform={uniform}: fwd {:.1} GF/s {:.1} ms, fwd+bwd {:.1} GF/s", fl/f, f*1e3, 3.5*fl/fb);
        }}
    }
    });
}
