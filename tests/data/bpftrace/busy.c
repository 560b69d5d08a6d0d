#include <stdlib.h>
volatile unsigned long s;
__attribute__((noinline)) void leaf_a(unsigned long n){for(unsigned long i=0;i<n;i++)s+=i;}
__attribute__((noinline)) void leaf_b(unsigned long n){for(unsigned long i=0;i<n;i++)s^=i;}
__attribute__((noinline)) void work(unsigned long n){leaf_a(n*2);leaf_b(n);s++;}
int main(int c,char**v){unsigned long n=strtoul(v[1],0,10);for(int i=0;i<10;i++){work(n);}return 0;}
