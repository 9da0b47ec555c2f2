//! Trains the demo's classifier of handwritten digits with candle and writes it as ONNX.
//!
//!     cargo run --release -p whit-examples --example train_digits -- TRAIN.npz OUT.onnx
//!
//! TRAIN.npz has `image` u8 [N, 1, 8, 8] with pixels 0..16 and `labels` u8 [N]. The same data gives
//! the same bytes: weights and batches come from a fixed seed. examples/digits/make.sh runs it.
#![forbid(unsafe_code)]

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, loss, ops};
use whit_convert::import::onnx::proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
    data_type,
};

const SEED: u64 = 1;
const EPOCHS: usize = 40;
const BATCH: usize = 32;
const LEARNING_RATE: f64 = 2e-3;
const PIXEL_SCALE: f64 = 1.0 / 16.0; // pixels are 0..=16
const OPSET: i64 = 17;

/// SplitMix64 (Steele, Lea, Flood 2014): candle's CPU generator cannot be seeded.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Weight [out, in, …] and bias [out] of a layer.
struct Layer {
    weight: Var,
    bias: Var,
}

impl Layer {
    /// Uniform within sqrt(6 / fan-in) (He 2015), for ReLU.
    fn new(random: &mut Random, shape: &[usize]) -> Result<Layer> {
        let bound = (6.0 / shape[1..].iter().product::<usize>() as f32).sqrt();
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.unit() * bound).collect();
        Ok(Layer {
            weight: Var::from_vec(values, shape, &Device::Cpu)?,
            bias: Var::zeros(shape[0], DType::F32, &Device::Cpu)?,
        })
    }

    /// 3×3, padded to keep the size, then ReLU.
    fn conv(&self, x: &Tensor) -> Result<Tensor> {
        let bias = self.bias.reshape((1, (), 1, 1))?;
        x.conv2d(&self.weight, 1, 1, 1, 1)?.broadcast_add(&bias)?.relu()
    }

    fn linear(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)
    }

    fn initializers(&self, name: &str) -> Result<[TensorProto; 2]> {
        let tensor = |name: String, var: &Var| -> Result<TensorProto> {
            let dims: Vec<i64> = var.dims().iter().map(|n| *n as i64).collect();
            Ok(TensorProto::f32(&name, &dims, &var.flatten_all()?.to_vec1()?))
        };
        Ok([
            tensor(format!("{name}.weight"), &self.weight)?,
            tensor(format!("{name}.bias"), &self.bias)?,
        ])
    }
}

/// 1×8×8 → conv 8 → conv 16 → max pool → 256 → 48 → 10: 14 k parameters.
struct Net {
    conv1: Layer,
    conv2: Layer,
    hidden: Layer,
    classes: Layer,
}

impl Net {
    fn new(random: &mut Random) -> Result<Net> {
        Ok(Net {
            conv1: Layer::new(random, &[8, 1, 3, 3])?,
            conv2: Layer::new(random, &[16, 8, 3, 3])?,
            hidden: Layer::new(random, &[48, 256])?,
            classes: Layer::new(random, &[10, 48])?,
        })
    }

    fn layers(&self) -> [(&'static str, &Layer); 4] {
        [
            ("conv1", &self.conv1),
            ("conv2", &self.conv2),
            ("hidden", &self.hidden),
            ("classes", &self.classes),
        ]
    }

    fn logits(&self, image: &Tensor) -> Result<Tensor> {
        let x = self.conv1.conv(&(image * PIXEL_SCALE)?)?;
        let x = self.conv2.conv(&x)?.max_pool2d(2)?.flatten_from(1)?;
        self.classes.linear(&self.hidden.linear(&x)?.relu()?)
    }

    /// The same arithmetic as `logits`, and softmax.
    fn to_onnx(&self) -> Result<ModelProto> {
        let conv = |name: &str, input: &str, output: &str| {
            let inputs = [input, &format!("{name}.weight"), &format!("{name}.bias")];
            NodeProto::new("Conv", &inputs, &[output])
                .named(name)
                .with(AttributeProto::ints("kernel_shape", &[3, 3]))
                .with(AttributeProto::ints("pads", &[1, 1, 1, 1]))
        };
        let gemm = |name: &str, input: &str, output: &str| {
            let inputs = [input, &format!("{name}.weight"), &format!("{name}.bias")];
            NodeProto::new("Gemm", &inputs, &[output])
                .named(name)
                .with(AttributeProto::int("transB", 1))
        };
        let node = |op: &str, name: &str, inputs: &[&str], output: &str| {
            NodeProto::new(op, inputs, &[output]).named(name)
        };
        let mut initializer = vec![TensorProto::f32("pixel_scale", &[], &[PIXEL_SCALE as f32])];
        for (name, layer) in self.layers() {
            initializer.extend(layer.initializers(name)?);
        }
        let float = data_type::FLOAT;
        let dims = |sizes: &[i64]| -> Vec<DimensionProto> {
            let mut dims = vec!["batch".into()];
            dims.extend(sizes.iter().map(|n| (*n).into()));
            dims
        };
        let graph = GraphProto {
            name: Some("digits".to_owned()),
            node: vec![
                node("Mul", "scale", &["image", "pixel_scale"], "scaled"),
                conv("conv1", "scaled", "conv1_out"),
                node("Relu", "relu1", &["conv1_out"], "relu1_out"),
                conv("conv2", "relu1_out", "conv2_out"),
                node("Relu", "relu2", &["conv2_out"], "relu2_out"),
                node("MaxPool", "pool", &["relu2_out"], "pool_out")
                    .with(AttributeProto::ints("kernel_shape", &[2, 2]))
                    .with(AttributeProto::ints("strides", &[2, 2])),
                node("Flatten", "flatten", &["pool_out"], "flat")
                    .with(AttributeProto::int("axis", 1)),
                gemm("hidden", "flat", "hidden_out"),
                node("Relu", "relu3", &["hidden_out"], "relu3_out"),
                gemm("classes", "relu3_out", "logits"),
                node("Softmax", "softmax", &["logits"], "probabilities")
                    .with(AttributeProto::int("axis", 1)),
            ],
            initializer,
            input: vec![ValueInfoProto::tensor("image", float, dims(&[1, 8, 8]))],
            output: vec![ValueInfoProto::tensor("probabilities", float, dims(&[10]))],
            ..GraphProto::default()
        };
        Ok(ModelProto::new(OPSET, graph))
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [train, out] = args.as_slice() else {
        return Err("usage: train_digits TRAIN.npz OUT.onnx".into());
    };
    let arrays = Tensor::read_npz_by_name(train, &["image", "labels"])?;
    let (images, labels) = (arrays[0].to_dtype(DType::F32)?, arrays[1].to_dtype(DType::U32)?);
    let samples = images.dim(0)?;

    let mut random = Random(SEED);
    let net = Net::new(&mut random)?;
    let vars: Vec<Var> =
        net.layers().iter().flat_map(|(_, l)| [l.weight.clone(), l.bias.clone()]).collect();
    let parameters: usize = vars.iter().map(|v| v.elem_count()).sum();
    let mut optimizer = AdamW::new(vars, ParamsAdamW::default())?;
    let batches = samples / BATCH;
    let mut order: Vec<u32> = (0..samples as u32).collect();
    for epoch in 0..EPOCHS {
        for i in (1..samples).rev() {
            order.swap(i, (random.next() % (i as u64 + 1)) as usize); // Fisher–Yates
        }
        // Half a cosine, from the full rate to 0.
        let progress = epoch as f64 / EPOCHS as f64;
        optimizer.set_learning_rate(
            LEARNING_RATE * 0.5 * (1.0 + (progress * std::f64::consts::PI).cos()),
        );
        let mut sum = 0.0;
        for batch in order.chunks_exact(BATCH) {
            let batch = Tensor::new(batch, &Device::Cpu)?;
            let logits = net.logits(&images.index_select(&batch, 0)?)?;
            let loss = loss::cross_entropy(&logits, &labels.index_select(&batch, 0)?)?;
            optimizer.backward_step(&loss)?;
            sum += loss.to_scalar::<f32>()?;
        }
        if (epoch + 1) % 10 == 0 {
            println!("epoch {:2}  loss {:.4}", epoch + 1, sum / batches as f32);
        }
    }
    let probabilities = ops::softmax(&net.logits(&images)?, 1)?;
    let right = probabilities
        .argmax(1)?
        .eq(&labels)?
        .to_dtype(DType::F32)?
        .sum_all()?
        .to_scalar::<f32>()?;
    println!("{parameters} parameters, {:.1} % right in training", 100.0 * right / samples as f32);
    std::fs::write(out, net.to_onnx()?.to_bytes())?;
    Ok(())
}
