#include <vector>
#include <string>
#include <map>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
namespace shop { namespace { __attribute__((noinline)) unsigned hidden(unsigned x){ volatile unsigned y=x; for(int i=0;i<400;i++) y = y*31+i; return y; } }
template<class T> struct Cart { std::vector<T> v; __attribute__((noinline)) void add(const T& t){ v.push_back(t); } __attribute__((noinline)) T total() const { T s{}; for (auto& x: v) s += x; return s; } bool operator()(const T&a,const T&b) const __attribute__((noinline)) { return b<a; } };
struct Base { virtual unsigned run(unsigned) = 0; virtual ~Base(){} };
struct Impl : Base { unsigned run(unsigned n) override __attribute__((noinline)) { return hidden(n)+hidden(n+1); } };
}
template<class F> __attribute__((noinline)) unsigned apply(F f, unsigned n){ unsigned s=0; for(unsigned i=0;i<200;i++) s+=f(i+n); return s; }
int main(int c,char**a){ unsigned n = c>1?atoi(a[1]):20000, t=0; shop::Impl impl; shop::Base*b=&impl;
 for(unsigned r=0;r<n;r++){ shop::Cart<double> d; for(int i=0;i<50;i++) d.add(i*r%17); t+=d.total(); std::sort(d.v.begin(), d.v.end(), d); t+=b->run(r);
  std::map<std::string,int> m; for(int i=0;i<40;i++) m[std::to_string((i*r)%23)]++; t+=m.size();
  auto f=[=](unsigned k) __attribute__((noinline)) { volatile unsigned y=k^r; for(int i=0;i<10;i++) y=y*3+1; return (unsigned)y; };
  t+=apply(f,r); std::function<unsigned(unsigned)> g=f; t+=g(r);} printf("%u\n",t); }
