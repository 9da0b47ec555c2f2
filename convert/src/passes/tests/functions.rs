//! Activation functions in the spellings of further exporters.

use super::*;
use crate::graph::{BinaryKind, UnaryKind, ValueId};

fn number(g: &mut Build, x: ValueId, kind: BinaryKind, by: f32) -> ValueId {
    let by = g.scalar(by);
    g.binary(kind, x, by)
}

fn finish(g: &mut Build, f: fn(&mut Build, ValueId) -> ValueId) -> Graph {
    let x = g.input(&[64]);
    let y = f(g, x);
    g.finish(&[y])
}

#[test]
#[allow(clippy::approx_constant, reason = "the digits that exporters write")]
fn spellings() {
    use BinaryKind::{Add, Div, Max, Min, Mul, Sub};
    use UnaryKind as U;
    check_cases(&[
        Case {
            name: "gelu: (0.5 x) (erf(x * 0.7071) + 1)",
            build: |g| {
                finish(g, |g, x| {
                    let e = number(g, x, Mul, 0.70710677);
                    let e = g.unary(U::Erf, e);
                    let e = number(g, e, Add, 1.0);
                    let half = number(g, x, Mul, 0.5);
                    g.binary(Mul, half, e)
                })
            },
            left: "Gelu",
        },
        Case {
            name: "gelu: x (0.5 erf + 0.5)",
            build: |g| {
                finish(g, |g, x| {
                    let e = number(g, x, Div, 1.4142135);
                    let e = g.unary(U::Erf, e);
                    let e = number(g, e, Mul, 0.5);
                    let e = number(g, e, Add, 0.5);
                    g.binary(Mul, e, x)
                })
            },
            left: "Gelu",
        },
        Case {
            name: "gelu of TensorFlow: 0.5 (1 + erf) x, halved first",
            build: |g| {
                finish(g, |g, x| {
                    let e = number(g, x, Div, 1.4142135);
                    let e = g.unary(U::Erf, e);
                    let one = g.scalar(1.0);
                    let e = g.binary(Add, one, e);
                    let half = g.scalar(0.5);
                    let half = g.binary(Mul, half, x);
                    g.binary(Mul, half, e)
                })
            },
            left: "Gelu",
        },
        Case {
            name: "mish: x tanh(softplus(x))",
            build: |g| {
                finish(g, |g, x| {
                    let s = g.unary(U::Softplus, x);
                    let t = g.unary(U::Tanh, s);
                    g.binary(Mul, x, t)
                })
            },
            left: "Mish",
        },
        Case {
            name: "mish: softplus as log(1 + exp(x))",
            build: |g| {
                finish(g, |g, x| {
                    let e = g.unary(U::Exp, x);
                    let e = number(g, e, Add, 1.0);
                    let s = g.unary(U::Log, e);
                    let t = g.unary(U::Tanh, s);
                    g.binary(Mul, t, x)
                })
            },
            left: "Mish",
        },
        Case {
            name: "silu: x / (1 + exp(-x))",
            build: |g| {
                finish(g, |g, x| {
                    let e = g.unary(U::Neg, x);
                    let e = g.unary(U::Exp, e);
                    let e = number(g, e, Add, 1.0);
                    g.binary(Div, x, e)
                })
            },
            left: "Silu",
        },
        Case {
            name: "hard sigmoid: clip(x + 3) / 6",
            build: |g| {
                finish(g, |g, x| {
                    let s = number(g, x, Add, 3.0);
                    let s = g.unary(U::Clip { min: 0.0, max: 6.0 }, s);
                    number(g, s, Div, 6.0)
                })
            },
            left: "HardSigmoid { alpha: 0.16666667, beta: 0.5 }",
        },
        Case {
            name: "hard sigmoid of Keras: min and max of 0.2 x + 0.5",
            build: |g| {
                finish(g, |g, x| {
                    let s = number(g, x, Mul, 0.2);
                    let s = number(g, s, Add, 0.5);
                    let s = number(g, s, Min, 1.0);
                    number(g, s, Max, 0.0)
                })
            },
            left: "HardSigmoid { alpha: 0.2, beta: 0.5 }",
        },
        Case {
            name: "hard swish of PaddlePaddle: x clip(x + 3) * 0.16666667",
            build: |g| {
                finish(g, |g, x| {
                    let s = number(g, x, Add, 3.0);
                    let s = g.unary(U::Clip { min: 0.0, max: 6.0 }, s);
                    let y = g.binary(Mul, x, s);
                    number(g, y, Mul, 0.16666667)
                })
            },
            left: "HardSwish",
        },
        Case {
            name: "softsign: x / (|x| + 1)",
            build: |g| {
                finish(g, |g, x| {
                    let a = g.unary(U::Abs, x);
                    let a = number(g, a, Add, 1.0);
                    g.binary(Div, x, a)
                })
            },
            left: "Softsign",
        },
        Case {
            name: "what is no function that has a name",
            build: |g| {
                finish(g, |g, x| {
                    let e = g.unary(U::Exp, x);
                    let y = number(g, e, Sub, 1.0);
                    g.binary(Mul, x, y)
                })
            },
            left: "Exp Sub Mul",
        },
    ]);
}

#[test]
fn powers_without_logarithms() {
    use BinaryKind::Pow;
    // Of numbers that aren't negative, which have a root.
    let power = |by: f32| {
        let mut g = Build::default();
        let x = g.input(&[64]);
        let x = g.unary(UnaryKind::Abs, x);
        let y = number(&mut g, x, Pow, by);
        let before = g.finish(&[y]);
        let mut after = before.clone();
        super::super::run_all(&mut after, &[], &mut |_, _| ());
        assert_same(&format!("power of {by}"), &before, &after);
        summary(&after)
    };
    assert_eq!(power(2.0), "Abs Mul");
    assert_eq!(power(0.5), "Abs Sqrt");
    assert_eq!(power(-1.0), "Abs Reciprocal");
    assert_eq!(power(1.5), "Abs Pow");
}
