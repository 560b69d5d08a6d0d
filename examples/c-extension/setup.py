from setuptools import Extension, setup

setup(
    packages=["fingerprint"],
    ext_modules=[
        Extension(
            "fingerprint._rolling",
            ["src/module.c", "src/rolling.c"],
            depends=["src/rolling.h"],
            # -g: ci_flame tells by the line table which C functions a change touched.
            extra_compile_args=["-O2", "-g"],
        )
    ],
)
