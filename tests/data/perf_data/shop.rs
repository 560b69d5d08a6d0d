use std::collections::HashMap;
trait Shape { fn area(&self, n: u64) -> u64; }
struct Sq; struct Tri<T>(T);
impl Shape for Sq { #[inline(never)] fn area(&self, n: u64) -> u64 { let mut x = n; for i in 0..2000u64 { x = std::hint::black_box(x.wrapping_mul(31) ^ i); } x } }
impl<T: Into<u64> + Copy> Shape for Tri<T> { #[inline(never)] fn area(&self, n: u64) -> u64 { let mut x = n + self.0.into(); for i in 0..1000u64 { x = std::hint::black_box(x.wrapping_add(i)); } x } }
mod deep { pub mod inner { #[inline(never)] pub fn sort_them(v: &mut Vec<u64>) { v.sort_by(|a, b| b.cmp(a)); } } }
#[inline(never)] fn apply<F: Fn(u64) -> u64>(f: F, n: u64) -> u64 { let mut x = 0u64; for i in 0..500 { x ^= f(n + i); } x }
#[inline(never)] fn main_work(round: u64) -> u64 {
    let shapes: Vec<Box<dyn Shape>> = vec![Box::new(Sq), Box::new(Tri(7u32))];
    let mut s: u64 = shapes.iter().map(|q| q.area(round)).sum();
    let mut v: Vec<u64> = (0..2000).map(|i: u64| i.wrapping_mul(2654435761) % 1000).collect();
    deep::inner::sort_them(&mut v); s = s.wrapping_add(v[3]);
    let mut m: HashMap<String, u64> = HashMap::new();
    for i in 0..200 { *m.entry(format!("k{}", i % 50)).or_insert(0) += i; }
    s.wrapping_add(apply(|k| { let mut y = k; for _ in 0..20 { y = std::hint::black_box(y.rotate_left(5) ^ 0x9e37); } y }, round)).wrapping_add(m.len() as u64)
}
fn main() { let n: u64 = std::env::args().nth(1).map(|a| a.parse().unwrap()).unwrap_or(3000); let mut t = 0u64; for r in 0..n { t = t.wrapping_add(main_work(r)); } println!("{}", t); }
