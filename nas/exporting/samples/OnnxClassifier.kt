package classifier

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import android.content.Context
import java.nio.FloatBuffer

private const val MODEL = "model.onnx"

/** By ONNX Runtime: implementation("com.microsoft.onnxruntime:onnxruntime-android:latest.release") */
class OnnxClassifier(context: Context, asset: String = MODEL) : Classifier(context) {
    private val environment = OrtEnvironment.getEnvironment()
    private val session = environment.createSession(context.assets.open(asset).use { it.readBytes() })

    @Suppress("UNCHECKED_CAST")
    override fun logits(image: FloatArray): FloatArray =
        OnnxTensor.createTensor(environment, FloatBuffer.wrap(image), SHAPE).use { images ->
            session.run(mapOf("images" to images)).use { outputs -> (outputs[0].value as Array<FloatArray>)[0] }
        }

    override fun close() = session.close()
}
