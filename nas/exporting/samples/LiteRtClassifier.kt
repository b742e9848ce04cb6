package classifier

import android.content.Context
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel

private const val MODEL = "model.tflite"

/** By LiteRT: implementation("com.google.ai.edge.litert:litert:latest.release") */
class LiteRtClassifier(context: Context, asset: String = MODEL, unit: Accelerator = Accelerator.CPU) :
    Classifier(context) {
    private val model = CompiledModel.create(context.assets, asset, CompiledModel.Options(unit))
    private val inputs = model.createInputBuffers()
    private val outputs = model.createOutputBuffers()

    override fun logits(image: FloatArray): FloatArray {
        inputs[0].writeFloat(image)
        model.run(inputs, outputs)
        return outputs[0].readFloat()
    }

    override fun close() {
        (inputs + outputs).forEach { it.close() }
        model.close()
    }
}
